#!/usr/bin/env python3
"""Stages that misbehave, each in a process of its own: every one costs its own run, and a neighbour goes on."""
import json
import os

from harness import BUILD, Site, check, main

MIB = 1 << 20
LIMITS = {"memory_bytes": 256 * MIB, "disk_bytes": 16 * MIB, "processes": 16, "open_files": 256, "log_bytes": 64 * 1024}
# name: plugin, what it does, state, words of its error, further settings of the stage
BAD = {
    "segv": ("probe", "crash", "failed", ("signal 11",), {}),
    "abort": ("probe", "abort", "failed", ("signal 6",), {}),
    "exit": ("probe", "exit", "failed", ("status 7",), {}),
    "throw": ("probe", "throw", "failed", ("thrown on purpose",), {}),
    "loop": ("probe", "spin", "failed", (), {"options": {"ms": "600000"}, "run_timeout_ms": 1500}),
    "leak": ("probe", "leak", "failed", ("memory limit",), {}),
    "fill": ("probe", "fill", "failed", ("disk quota",), {}),
    "fork": ("probe", "fork", "failed", ("fork", "process"), {}),
    "flood": ("probe", "flood", "succeeded", (), {}),
    "garbage": ("rude", "garbage", "failed", ("no valid AttemptResult",), {}),
    "twice": ("rude", "twice", "succeeded", (), {}),
    "deaf": ("probe", "deaf", "failed", (), {"options": {"ms": "600000"}, "run_timeout_ms": 1000}),
}


def plugin_folder(site):
    folder = os.path.join(site.folder, "plugins")
    os.makedirs(folder)
    for f in os.listdir(os.path.join(BUILD, "plugins")):
        os.symlink(os.path.join(BUILD, "plugins", f), os.path.join(folder, f))
    for f in ("probe.so", "rude.so"):
        os.symlink(os.path.join(BUILD, "tests", "plugins", f), os.path.join(folder, f))
    neighbour = {"neighbour": ("probe", "sleep", "", (), {"options": {"ms": "600000"}})}
    for name, (plugin, what, _, _, more) in {**BAD, **neighbour}.items():
        stage = {"name": "first", "plugin": plugin, "heartbeat_timeout_ms": 20000, "limits": LIMITS,
                 "retry": {"max_attempts": 1, "first_delay_ms": 50, "multiplier": 1.0, "max_delay_ms": 50}, **more}
        stage["options"] = {"do": what, **more.get("options", {})}
        with open(os.path.join(folder, name + ".workflow.json"), "w") as f:
            json.dump({"name": name, "version": 1, "stages": [stage]}, f)
    return folder


def test_confined():
    with Site("confined") as site:
        site.daemon_args = ["--plugin-dir", plugin_folder(site)]
        site.start_daemon()
        site.bp("submit", site.recipe("neighbour", with_model=False), "--workflow", "neighbour")
        site.wait_state("neighbour", "running", 20)
        daemon = site.daemon.pid
        for name in BAD:
            site.bp("submit", site.recipe(name, with_model=False), "--workflow", name)
        for name, (_, _, state, words, _) in BAD.items():
            view = site.wait_state(name, {"failed", "succeeded"}, 60)
            message = (view["stages"][0].get("error") or {}).get("message", "")
            check(view["state"] == state, f"{name} is {view['state']}: {message}")
            check(not words or any(w in message for w in words), f"{name}: none of {words} in {message!r}")
        log = os.path.join(site.state, "logs")
        sizes = [os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(log) for f in files if f == "first.log"]
        check(sizes and max(sizes) < 512 * 1024, f"a flood of log lines was kept: {sizes}")
        check(site.daemon.poll() is None and site.daemon.pid == daemon, "the daemon has ended")
        check(site.show("neighbour")["state"] == "running", "the neighbour does not run any more")
        check(len(site.processes("stage-host")) == 1, f"hosts left: {site.processes('stage-host')}")
        check(len(os.listdir(os.path.join(site.state, "work"))) == 1, "work folders are left")
        site.bp("cancel", "neighbour")
        site.wait_state("neighbour", "cancelled", 20)


if __name__ == "__main__":
    main([test_confined])
