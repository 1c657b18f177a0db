#!/usr/bin/env python3
"""Taste as a test: include direction between rooms, lengths, words that do not belong in finished code.

Excess lengths are listed by name in tidy_excess.txt and may only shrink.
"""
import os
import re
import sys

ROOT = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "..", ".."))

# Who may include whom (ARCHITECTURE.md, "Rooms"). A room may always include itself.
RULES = {
    "engine/base": [],
    "engine/plan": ["engine/base"],
    "engine/bus": ["engine/base"],
    "engine/fetch": ["engine/base"],
    "engine/core": ["engine/base", "engine/plan", "storage/journal_types.h"],
    "storage": ["engine/base"],
    "engine/shell": ["engine/base", "engine/plan", "engine/core", "engine/bus", "engine/cron",
                     "storage/journal.h", "storage/journal_types.h"],
    "engine/daemon": ["engine", "storage"],
    "engine/node": ["engine/base", "engine/plan", "engine/bus", "engine/fetch"],
    # The client also works on journal files when no daemon runs, and shows them as the daemon does.
    "engine/cli": ["engine/base", "engine/plan", "engine/bus", "engine/fetch", "engine/shell/view.h",
                   "engine/shell/history_view.h", "storage/maintenance.h"],
    "engine/stage_host": ["engine/base", "engine/plan", "engine/bus", "plugins/sdk/stage_abi.h"],
    "plugins/sdk": ["engine/base", "engine/bus"],
    "plugins/kit": ["plugins/sdk", "engine/base", "engine/bus"],  # a program of its own
    "plugins": ["plugins/sdk", "engine/plan", "engine/fetch", "engine/base"],
    "runtime/head": ["engine/base", "engine/plan", "engine/bus", "runtime"],
    "runtime/rank": ["engine/base", "engine/plan", "engine/bus", "runtime"],
    "runtime": ["engine/base", "engine/plan", "runtime"],
}
BANNED = re.compile(r"\b(TODO|FIXME|XXX|HACK|not implemented|unimplemented)\b", re.IGNORECASE)
LIMITS = {".h": 180, ".cc": 400, ".py": 400, ".cuh": 300, ".cu": 300}
COLUMNS = 120
# Waits that no deadline ends. One that must be so says why behind it: "// untimed: ...".
UNTIMED = [
    (re.compile(r"\.wait\(\s*\w*(lock|lk)\w*\s*[,)]"), "a condition variable waits without a deadline"),
    (re.compile(r"FUTEX_WAIT\w*,[^,]+,\s*(nullptr|NULL|0)\s*[,)]"), "a futex waits without a deadline"),
    (re.compile(r"\bpoll\([^;]*,\s*-1\s*\)"), "poll waits for ever"),
    (re.compile(r"\bppoll\([^;]*,\s*(nullptr|NULL)\s*,\s*(nullptr|NULL)\s*\)"), "ppoll waits for ever"),
    (re.compile(r"\bepoll_wait\([^;]*,\s*-1\s*\)"), "epoll_wait waits for ever"),
    (re.compile(r"\bwaitpid\([^;]*,\s*0\s*\)"), "waitpid waits for ever"),
    (re.compile(r"\bsigwait\("), "sigwait waits for ever"),
    (re.compile(r"\bflock\([^;]*LOCK_(EX|SH)\s*\)"), "flock waits for ever"),
    (re.compile(r"recv_flags::none"), "a socket is read without a deadline"),
    (re.compile(r"\bfuture\w*\.wait\(\)"), "a future is waited for without a deadline"),
    (re.compile(r"\.(arrive_and_wait|acquire)\(\)"), "a barrier or semaphore is waited for without a deadline"),
]
PRODUCT = ("engine/", "plugins/", "runtime/", "storage/")
TOP = {"CMakeLists.txt", "engine", "plugins", "proto", "storage", "runtime", "examples", "tests"}


def room_of(path):
    best = ""
    for room in RULES:
        if (path == room or path.startswith(room + "/")) and len(room) > len(best):
            best = room
    return best


def allowed(path, include):
    room = room_of(path)
    if not room:
        return True
    if include.startswith(room + "/") and room not in ("plugins", "runtime"):
        return True
    if room == "plugins" and include.startswith("/".join(path.split("/")[:2]) + "/"):
        return True
    return any(include == a or include.startswith(a + "/") for a in RULES[room])


def files():
    for folder, names, found in os.walk(ROOT):
        names[:] = [n for n in names if not n.startswith(".") and n not in ("build", "__pycache__")]
        for f in found:
            yield os.path.relpath(os.path.join(folder, f), ROOT)


def excess():
    path = os.path.join(ROOT, "tests", "tidy", "tidy_excess.txt")
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        return {line.split()[1]: int(line.split()[0]) for line in f if line.strip() and not line.startswith("#")}


def main():
    problems = []
    known = excess()
    for path in sorted(files()):
        ext = os.path.splitext(path)[1]
        if ext not in LIMITS:
            continue
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            lines = f.read().split("\n")
        limit = known.get(path, LIMITS[ext])
        if len(lines) - 1 > limit:
            problems.append(f"{path}: {len(lines) - 1} lines, at most {limit}: split it along an event "
                            "family, an op, an endpoint")
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS:
                problems.append(f"{path}:{number}: {len(line)} columns, at most {COLUMNS}")
            if path != "tests/tidy/tidy.py" and BANNED.search(line):
                problems.append(f"{path}:{number}: unfinished: {line.strip()[:80]}")
            if path.startswith(PRODUCT) and "// untimed: " not in line:
                for pattern, text in UNTIMED:
                    if pattern.search(line):
                        problems.append(f"{path}:{number}: {text}: {line.strip()[:80]}")
            m = re.match(r'\s*#include "((?:engine|storage|plugins|runtime|tests)/[^"]+)"', line)
            if m and not path.startswith(("tests/", "examples/")) and not allowed(path, m.group(1)):
                problems.append(f"{path}:{number}: {room_of(path)} must not include {m.group(1)}")
    for entry in sorted(os.listdir(ROOT)):
        if os.path.isdir(os.path.join(ROOT, entry)) and not entry.startswith(".") and entry not in TOP | {"build"}:
            problems.append(f"{entry}/: no such top-level folder is foreseen")
    for p in problems:
        print(p)
    print(f"tidy: {len(problems)} problems")
    return 1 if problems else 0


sys.exit(main())
