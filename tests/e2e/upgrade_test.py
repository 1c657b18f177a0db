#!/usr/bin/env python3
"""The daemon's program is replaced while attempts run and clients ask: nothing is lost, nothing is run twice, and
nobody is refused."""
import json
import os
import shutil
import signal
import subprocess
import threading
import time

from harness import BIN, BUILD, Site, check, main, wait_until

RUNS = int(os.environ.get("BP_UPGRADE_RUNS", "24"))
WORK_MS = 9000


def install(site):
    """A copy of the programs that the test may replace, and a workflow whose stage notes each beginning."""
    prefix = os.path.join(site.folder, "installed")
    os.makedirs(os.path.join(prefix, "bin"))
    for name in ("bp-daemon", "bp-supervisor", "bp-stage-host", "bp-node", "bp-head", "bp-rank"):
        if os.path.exists(os.path.join(BIN, name)):
            shutil.copy(os.path.join(BIN, name), os.path.join(prefix, "bin", name))
    plugins = os.path.join(prefix, "plugins")
    os.makedirs(plugins)
    for f in os.listdir(os.path.join(BUILD, "plugins")):
        os.symlink(os.path.join(BUILD, "plugins", f), os.path.join(plugins, f))
    os.symlink(os.path.join(BUILD, "tests", "plugins", "probe.so"), os.path.join(plugins, "probe.so"))
    stage = {"name": "work", "plugin": "probe", "heartbeat_timeout_ms": 20000,
             "options": {"do": "effect", "file": os.path.join(site.folder, "effects"), "ms": str(WORK_MS)},
             "retry": {"max_attempts": 2, "first_delay_ms": 50, "multiplier": 1.0, "max_delay_ms": 50}}
    with open(os.path.join(plugins, "work.json"), "w") as f:
        json.dump({"name": "work", "version": 1, "stages": [stage]}, f)
    return prefix


def start(site, prefix):
    log = open(os.path.join(site.folder, "daemon.log"), "ab")
    site.daemon = subprocess.Popen(
        [os.path.join(prefix, "bin", "bp-daemon"), "--plugin-dir", os.path.join(prefix, "plugins")], env=site.env,
        stdout=log, stderr=log, start_new_session=True)
    log.close()
    wait_until("bp-daemon to answer", lambda: site.bp("list", "--json", ok=None).returncode == 0, 20, 0.02)


class Asker(threading.Thread):
    """A client that asks all the time; every answer must come."""

    def __init__(self, site):
        super().__init__(daemon=True)
        self.site, self.stop, self.asked, self.refused = site, threading.Event(), 0, []

    def run(self):
        while not self.stop.is_set():
            r = self.site.bp("list", "--json", ok=None, timeout=30)
            self.asked += 1
            if r.returncode != 0:
                self.refused.append(r.stderr[-300:])


def replace_program(prefix):
    path = os.path.join(prefix, "bin", "bp-daemon")
    shutil.copy(path, path + ".new")
    os.replace(path + ".new", path)


def daemon_starts(site):
    with open(os.path.join(site.folder, "daemon.log"), errors="replace") as f:
        return f.read().count("daemon.ready")


def effects(site):
    path = os.path.join(site.folder, "effects")
    if not os.path.exists(path):
        return []
    with open(path) as f:
        return f.read().split()


def test_upgrade_under_load():
    """Twice under load: running attempts go on under the new program, each begun once and ended once."""
    with Site("upgrade") as site:
        prefix = install(site)
        start(site, prefix)
        names = [f"job-{i}" for i in range(RUNS)]
        for name in names:
            site.bp("submit", site.recipe(name, with_model=False), "--workflow", "work")
        wait_until("all attempts to run", lambda: len(effects(site)) == RUNS, 60)
        hosts = {p.pid for p in site.processes("stage-host")}
        asker = Asker(site)
        asker.start()
        for n in (2, 3):
            replace_program(prefix)
            os.kill(site.daemon.pid, signal.SIGHUP)
            wait_until("the new program to be ready", lambda n=n: daemon_starts(site) == n, 20)
        check(site.daemon.poll() is None, "the daemon's process has ended")
        check({p.pid for p in site.processes("stage-host")} == hosts, "stage hosts did not outlive the upgrade")
        for name in names:
            site.wait_state(name, "succeeded", 60)
        asker.stop.set()
        asker.join(30)
        check(asker.asked > 3 and not asker.refused, f"{len(asker.refused)} of {asker.asked} asked in vain: "
                                                     f"{asker.refused[:1]}")
        check(len(effects(site)) == RUNS and len(set(effects(site))) == RUNS, f"begun: {effects(site)}")


def test_broken_program():
    """A program that does not run is refused, and the daemon goes on."""
    with Site("upgrade") as site:
        prefix = install(site)
        start(site, prefix)
        path = os.path.join(prefix, "bin", "bp-daemon")
        with open(path + ".new", "w") as f:
            f.write("#!/bin/sh\nexit 9\n")
        os.chmod(path + ".new", 0o755)
        os.replace(path + ".new", path)
        os.kill(site.daemon.pid, signal.SIGHUP)
        time.sleep(1)
        check(site.daemon.poll() is None and daemon_starts(site) == 1, "the daemon took up a broken program")
        site.bp("list")
        with open(os.path.join(site.folder, "daemon.log"), errors="replace") as f:
            check("upgrade.refused" in f.read(), "the log does not say why")


if __name__ == "__main__":
    main([test_upgrade_under_load, test_broken_program])
