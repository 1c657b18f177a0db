#!/usr/bin/env python3
"""`bp plugin test`: names each rule that a plugin breaks, and none that it keeps.

Usage: kit_test.py BUILD_DIR SOURCE_DIR
"""
import json
import os
import subprocess
import sys
import tempfile

BUILD, SOURCE = (os.path.abspath(p) for p in sys.argv[1:3])
BROKEN = os.path.join(BUILD, "tests", "plugins", "broken.so")


def kit(plugin, *args):
    done = subprocess.run([os.path.join(BUILD, "bin", "bp-plugin-test"), plugin, "--json", *args], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=200)
    found = json.loads(done.stdout) if done.stdout else {"checks": []}
    verdicts = {c["check"]: c["verdict"] for c in found["checks"]}
    broken = {c["check"]: c["text"] for c in found["checks"] if c["verdict"] == "broken"}
    return done.returncode, verdicts, broken, done.stderr


def check(condition, text):
    if not condition:
        sys.exit(f"kit_test: {text}")


def broken_plugin(folder, what):
    """The checks that a plugin fails which breaks just `what`."""
    path = os.path.join(folder, "made-" + what)
    return kit(BROKEN, "--option", f"path={path}", "--option", f"break={what}", "--apply-ms", "3000",
               "--cancel-ms", "500", *(["--only", what] if what != "nothing" else []))


def main():
    with tempfile.TemporaryDirectory(prefix="bpkit-") as folder:
        code, verdicts, broken, err = broken_plugin(folder, "nothing")
        check(code == 0 and not broken and len(verdicts) == 14, f"a plugin that breaks nothing: {broken} {err}")
        # Each with the one rule it breaks; a further one may fall with it.
        for what in ("apply", "handle_first", "quiet_logs", "apply_again", "killed_at_beats", "cancelled_at_beats",
                     "destroy_twice", "destroy_of_nothing", "unknown_handle", "recover_unknown"):
            code, verdicts, broken, err = broken_plugin(folder, what)
            check(code == 1 and what in broken, f"{what} is not named: {broken} {err}")
        code, verdicts, broken, _ = kit(os.path.join(BUILD, "tests", "plugins", "other_abi.so"))
        check(code == 1 and "ABI version 9" in broken["load"], f"another ABI: {broken}")
        check(verdicts["apply"] == "skipped", "nothing is tried with what does not load")
        for what in ("missing_inputs", "huge_inputs"):
            code, verdicts, broken, err = kit(BROKEN.replace("broken.so", "fragile.so"), "--option", "path=/x",
                                              "--only", what)
            check(code == 1 and "signal" in broken.get(what, ""), f"{what} is not named: {broken} {err}")
        code, verdicts, broken, _ = kit(BROKEN, "--option", "break=apply", "--only", "apply_again",
                                       "--option", "path=/x")
        check(verdicts["apply_again"] == "skipped", f"checks that need a working apply are skipped: {verdicts}")
        check(kit("/nowhere/missing.so")[0] == 4, "a missing file has an exit code of its own")
        check(kit(BROKEN, "--option", "no-value")[0] == 2, "bad usage has an exit code of its own")
        # Ours: what they need of the world is not here, so what they must survive is asked.
        for name in ("validate", "provision", "fetch_weights", "start_head", "join_workers", "serve"):
            code, verdicts, broken, err = kit(os.path.join(BUILD, "plugins", name + ".so"), "--apply-ms", "10000",
                                              "--only", "destroy_of_nothing,unknown_handle,recover_unknown,"
                                              "missing_inputs,huge_inputs")
            check(not broken, f"stage {name}: {broken} {err}")
            check(verdicts["load"] == "kept" and verdicts["huge_inputs"] == "kept", f"stage {name}: {verdicts}")
        # A stage in Python.
        code, verdicts, broken, err = kit(os.path.join(SOURCE, "examples", "python_stage", "greet.py"), "--input",
                                          "name=world", "--option", f"folder={folder}/greetings")
        check(code == 0 and not broken, f"greet.py: {broken} {err}")
        check(not os.listdir(f"{folder}/greetings"), "everything that the kit had made is gone")
    print("kit_test: ok")


main()
