#!/usr/bin/env python3
"""kill -9 of each kind of process during each stage: 30 cells, five of kinds and six of stages.

Each kill is one deployment of two nodes x two ranks. The stage under test is held open a little (options
hold_before_ms and hold_after_ms of its definition) so that a moment inside it can be hit; the journal must
show that the kill lay inside. Then the deployment must reach `serving` by itself and answer rightly, no
process may ever run twice, and after `stop` nothing may be left.

usage: kill_matrix.py [--kills N] [--kinds a,b] [--stages a,b] [--seed S] [--resume FILE]
"""
import argparse
import json
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from harness import BUILD, DoubleWatch, Failure, Site, STAGES, chat, check, wait_until  # noqa: E402

KINDS = ["daemon", "stage-host", "node", "head", "rank"]
# What does not exist yet at that time cannot be killed.
NOT_APPLICABLE = {("node", "validate"): "no node yet",
                  ("head", "validate"): "no head yet", ("head", "provision"): "no head yet",
                  ("head", "fetch_weights"): "no head yet",
                  ("rank", "validate"): "no rank yet", ("rank", "provision"): "no rank yet",
                  ("rank", "fetch_weights"): "no rank yet", ("rank", "start_head"): "no rank yet"}
HOLD_MS = 400
EXPECTED = {"daemon": 1, "stage-host": 1, "node": 2, "head": 1, "rank": 4}  # of a deployment that serves


def make_workflow(folder, stage):
    """The default workflow with `stage` held open before and after its work."""
    with open(os.path.join(BUILD, "plugins", "default.workflow.json")) as f:
        workflow = json.load(f)
    for s in workflow["stages"]:
        if s["name"] == stage:
            s.setdefault("options", {})["hold_before_ms"] = str(HOLD_MS)
            s["options"]["hold_after_ms"] = str(HOLD_MS)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "default.workflow.json"), "w") as f:
        json.dump(workflow, f)


def journal_events(site, run_id):
    """(wall_ms, type, stage, epoch counter, note) of every event of a stage, from the journal itself."""
    events = []
    for line in site.bp("history", run_id, "--json").stdout.splitlines():
        entry = json.loads(line)
        if entry["type"] not in ("dispatched", "host_started", "ready", "ended", "lost"):
            continue
        message = json.loads(entry["json"])[entry["type"]]
        note = ""
        if entry["type"] == "ended":
            note = "succeeded" if message.get("succeeded") else "cancelled" if message.get("cancelled") else \
                message.get("error", {}).get("message", "")[:160]
            note += f", back to {message['rewind_to_stage']}" if message.get("rewind_to_stage") else ""
        events.append((entry["wall_ms"], entry["type"], message["stage"],
                       int(message.get("epoch", {}).get("counter", 0)), note))
    return events


def timeline(events, at_ms):
    """What the journal tells around a kill, one line an event, times in ms after the kill."""
    return "".join(f"      {wall_ms - at_ms:+8.0f} ms  {stage:14} {kind:12} epoch {counter}  {note}\n"
                   for wall_ms, kind, stage, counter, note in events)


def inside_stage(events, stage, at_ms):
    """True when `at_ms` lies between a dispatch of the stage and that attempt's end."""
    open_since = {}
    for wall_ms, kind, name, counter, _ in events:
        if name != stage:
            continue
        if kind == "dispatched":
            open_since[counter] = wall_ms
        elif kind in ("ended", "lost") and counter in open_since:
            if open_since.pop(counter) <= at_ms <= wall_ms:
                return True
    return any(begin <= at_ms for begin in open_since.values())


def current_stage(view):
    for s in view["stages"]:
        if s["state"] in ("running", "ready", "cancelling"):
            return s["name"]
    return ""


def miscounted(site):
    """Kinds of which not exactly the expected number of processes lives: {kind: number}."""
    alive = [p.kind for p in site.processes()]
    return {k: alive.count(k) for k, n in EXPECTED.items() if alive.count(k) != n}


def serving_again(site, run, begin):
    """Waits until the deployment is whole, serves, and goes on so. Returns the seconds from `begin` until then."""
    while True:
        site.wait_state(run, "serving", 60)
        seconds = time.monotonic() - begin
        # The kill may be noticed only now: serving must be a state that lasts.
        time.sleep(0.5)
        wrong = miscounted(site)
        if site.show(run)["state"] == "serving" and not wrong:
            return seconds
        check(time.monotonic() - begin < 90, f"serving never lasts; processes that are too many or few: {wrong}")


def one_kill(kind, stage, rng, verbose=False):
    """One deployment with one kill. Returns what to print; raises Failure."""
    with Site("kill") as site:
        flows = os.path.join(site.folder, "flows")
        make_workflow(flows, stage)
        site.daemon_args = ["--workflow-dir", flows]
        site.start_daemon()
        watch = DoubleWatch(site)
        watch.start()
        run = json.loads(site.bp("submit", site.recipe("k"), "--json").stdout)["run_id"]
        wait_until(f"stage {stage}", lambda: current_stage(site.try_show(run) or {"stages": []}) == stage, 40, 0.01)
        # Moments spread over the whole stage: its work lies between the two holds, and `serve` goes on
        # after it. What appears only by the stage's work is hit during that work or in the second hold.
        begin = time.monotonic()
        found = wait_until(f"a {kind} to kill in {stage}", lambda: site.processes(kind), 10, 0.005)
        was_there = time.monotonic() - begin < HOLD_MS / 2000
        time.sleep(rng.random() * 0.9 * HOLD_MS / 1000 * (4 if stage == "serve" else 2 if was_there else 1))
        target = rng.choice(site.processes(kind) or found)
        at_ms = time.time() * 1000
        site.kill(target.pid)
        begin = time.monotonic()
        if kind == "daemon":
            site.daemon.wait(10)
            site.start_daemon()
        try:
            seconds = serving_again(site, run, begin)
        except Failure as e:
            raise Failure(f"{e}\n{timeline(journal_events(site, run), at_ms)}")
        view = wait_until("all nodes to be connected", lambda: site.whole_view(run), 10)
        events = journal_events(site, run)
        if verbose:
            print(f"{kind} killed in {stage}, serving after {seconds:.1f} s\n{timeline(events, at_ms)}", flush=True)
        if not inside_stage(events, stage, at_ms):
            return None
        answer = chat(view["endpoint"], "What is the capital of France?")
        check("Paris" in answer, f"answer {answer!r} after the kill")
        check(not miscounted(site), f"too many or few processes: {miscounted(site)}")
        shown = {p["identity"]["pid"] for p in view["processes"]}
        real = {p.pid for k in ("head", "rank") for p in site.processes(k)}
        check(shown == real, f"bp show names {shown}, /proc has {real}")
        site.bp("stop", run)
        doubles = watch.finish()
        check(not doubles, f"ran twice: {doubles[:3]}")
        check(not site.leftovers(), f"left over: {site.leftovers()}")
        return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="kills a cell (default 5)")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--verbose", action="store_true", help="print what the journal tells of each kill")
    parser.add_argument("--resume", help="file that keeps results; cells found there are not run again")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}", flush=True)
    results = {}
    if args.resume and os.path.isfile(args.resume):
        with open(args.resume) as f:
            results = json.load(f)
    failed = 0
    for stage in args.stages.split(","):
        for kind in args.kinds.split(","):
            key = f"{kind}/{stage}"
            if (kind, stage) in NOT_APPLICABLE:
                results[key] = f"n/a ({NOT_APPLICABLE[kind, stage]})"
                continue
            if str(results.get(key, "")).startswith("ok"):
                continue
            rng = random.Random(f"{seed}/{key}")
            times, misses = [], 0
            try:
                while len(times) < args.kills:
                    seconds = one_kill(kind, stage, rng, args.verbose)
                    if seconds is None:
                        misses += 1
                        check(misses <= 3 * args.kills, f"the journal puts {misses} kills outside {stage}")
                        continue
                    times.append(seconds)
                results[key] = f"ok {len(times)}/{args.kills}, {max(times):.1f} s at most"
            except Failure as e:
                failed += 1
                results[key] = f"FAILED after {len(times)}"
                print(f"FAIL {key}: {e}", flush=True)
            print(f"{key:28} {results[key]}", flush=True)
            if args.resume:
                with open(args.resume, "w") as f:
                    json.dump(results, f, indent=1)
    print("\n" + "kind".ljust(12) + "".join(s.ljust(24) for s in STAGES))
    for kind in KINDS:
        print(kind.ljust(12) + "".join(str(results.get(f"{kind}/{s}", "-")).replace(" at most", "").ljust(24)
                                       for s in STAGES))
    ok = sum(str(v).startswith("ok") for v in results.values())
    not_applicable = sum(str(v).startswith("n/a") for v in results.values())
    print(f"\n{ok} cells ok, {failed} failed, {not_applicable} not applicable")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
