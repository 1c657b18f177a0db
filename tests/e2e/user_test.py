#!/usr/bin/env python3
"""What a user meets besides the deployment itself: commands in every state, secrets, the installed tree."""
import glob
import json
import os
import sqlite3
import subprocess
import tempfile
import shutil
import urllib.request

import harness
from harness import ROOT, STAGES, Site, check, main, wait_until


def token_of(site):
    return site.store.par.split("/p/")[1].split("/")[0]


def files_with(folder, needle):
    """Files below `folder` that hold the bytes `needle`."""
    found = []
    for root, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(root, name)
            if not os.path.islink(path) and os.path.isfile(path):
                with open(path, "rb") as f:
                    if needle in f.read():
                        found.append(path)
    return found


def secrets_of(site, run):
    with sqlite3.connect(f"file:{site.state}/journal.db?mode=ro", uri=True) as journal:
        return [name for (name,) in journal.execute("SELECT name FROM secrets WHERE run_number = ?",
                                                   (int(run[1:run.index("-")]),))]


def check_modes(site):
    for top in (site.state, site.run):
        for root, folders, files in os.walk(top):
            for name in folders + files + [""]:
                path = os.path.join(root, name) if name else root
                mode = os.lstat(path).st_mode & 0o777
                if not os.path.islink(path):
                    check(mode & 0o007 == 0, f"{path} has mode {mode:o}: others may use it")
    for key in glob.glob(site.state + "/keys/*") + glob.glob(site.state + "/nodes/*/node.key"):
        check(os.stat(key).st_mode & 0o777 == 0o600, f"{key} is not 0600")


def test_secrets():
    """The token of a PAR is nowhere in the clear; whoever stops a deployment deletes it for good."""
    with Site("secrets") as site:
        site.start_daemon()
        run = json.loads(site.bp("submit", site.recipe("sec"), "--json", "--wait").stdout.splitlines()[-1])["id"]
        token = token_of(site).encode()
        for folder in (site.state, site.run):
            check(not files_with(folder, token), f"the token is in {files_with(folder, token)}")
        with open(os.path.join(site.folder, "daemon.log"), "rb") as f:
            check(token not in f.read(), "the token is in daemon.log")
        kinds = set()
        for p in site.processes():
            kinds.add(p.kind)
            for part in ("cmdline", "environ"):
                with open(f"/proc/{p.pid}/{part}", "rb") as f:
                    check(token not in f.read(), f"the token is in {part} of {p}")
            with open(f"/proc/{p.pid}/limits") as f:
                core = next(line for line in f if line.startswith("Max core file size"))
                check(core.split()[4] in ("0", "1"), f"{p} may dump core: {core}")
        check(kinds == {"daemon", "stage-host", "node", "head", "rank"}, f"only {kinds} run")
        check_modes(site)
        check("par-0" in secrets_of(site, run), "a live run has its secret")
        site.bp("stop", "sec")
        check(secrets_of(site, run) == [], f"left after stop: {secrets_of(site, run)}")
        again = site.bp("retry", "sec", ok=2).stderr
        check("Submit its recipe again" in again, f"retry of a stopped one says {again!r}")


def test_commands_in_every_state():
    """retry, cancel, stop, watch, logs and generate of running, failed, stopped and cancelled deployments."""
    with Site("states") as site:
        site.start_daemon()
        path = site.recipe("st")
        site.store.set_faults([{"match": "*", "status": 404}])
        failed = json.loads(site.bp("submit", path, "--json").stdout)["run_id"]
        site.wait_state(failed, "failed", 60)
        site.bp("watch", failed, ok=1)
        site.bp("generate", failed, "x", ok=1)
        site.bp("cancel", failed, ok=2)
        check("404" in site.bp("logs", failed, ok=0).stdout + site.bp("show", failed).stdout, "404 is told")
        # A retry of what failed goes on with the same run, and keeps what is whole.
        site.store.set_faults([])
        site.bp("retry", failed, "--wait")
        view = site.show(failed)
        check(view["state"] == "serving" and view["stages"][0]["generation"] == 2, f"{view['state']}")
        site.bp("retry", "st", ok=2)
        site.bp("watch", "st", "--until-ready")
        site.bp("submit", path, ok=2)
        follower = subprocess.Popen([os.path.join(harness.BIN, "bp"), "logs", "st", "--follow"], env=site.env,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        stopped = site.bp("stop", "st", "--json").stdout.splitlines()
        last = json.loads(stopped[-1])
        check(last["state"] == "stopped" and not last["nodes"] and not last["processes"],
              f"the last word of stop: {stopped[-1]}")
        follower.communicate(timeout=20)
        check(follower.returncode == 0, f"logs --follow ended with {follower.returncode}")
        site.bp("stop", "st")
        site.bp("cancel", "st", ok=2)
        site.bp("watch", "st")
        site.bp("generate", "st", "x", ok=1)
        # A failed one that is stopped is done with: nothing of it stays, and it is not retried.
        site.store.set_faults([{"match": "*", "status": 403}])
        other = json.loads(site.bp("submit", site.recipe("st2"), "--json").stdout)["run_id"]
        site.wait_state(other, "failed", 60)
        site.bp("stop", other)
        check(site.show(other)["state"] == "stopped" and not secrets_of(site, other), "a failed one, stopped")
        site.store.set_faults([{"match": "*", "delay_ms": 60_000}])
        third = json.loads(site.bp("submit", site.recipe("st3"), "--json").stdout)["run_id"]
        wait_until("validate to run", lambda: site.show(third)["state"] == "running", 20)
        site.bp("cancel", third, "--reason", "wrong model")
        view = site.show(third)
        check(view["state"] == "cancelled" and view["waiting_for"].endswith("wrong model"), f"{view}")
        site.bp("cancel", third)
        site.bp("stop", third)
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_idempotency():
    """One key is one deployment; another recipe under the same key is refused with the name of the first."""
    with Site("idem") as site:
        site.start_daemon()
        a, b = site.recipe("one"), site.recipe("two")
        first = site.bp("submit", a, "--idempotency-key", "k", "--json")
        again = site.bp("submit", a, "--idempotency-key", "k", "--json")
        check(json.loads(first.stdout)["run_id"] == json.loads(again.stdout)["run_id"], "one key, one run")
        check(json.loads(again.stdout)["existed"] is True, "the second says that it existed")
        other = site.bp("submit", b, "--idempotency-key", "k", ok=2).stderr
        check(json.loads(first.stdout)["run_id"] in other, f"says {other!r}")
        site.bp("submit", a, ok=2)
        site.bp("stop", "one")


def test_every_command_has_help():
    commands = ["up", "submit", "plan", "list", "show", "watch", "logs", "generate", "access", "cancel", "retry",
                "stop", "doctor", "daemon"]
    for args in [[c] for c in commands] + [["daemon", "stop"], ["daemon", "status"]]:
        r = subprocess.run([os.path.join(harness.BIN, "bp"), *args, "--help"], capture_output=True, text=True)
        check(r.returncode == 0 and f"  bp {' '.join(args)}" in r.stdout.split("Examples:")[-1],
              f"bp {args} --help has no example of its own:\n{r.stdout}")
        if args != ["daemon"]:
            check("--json" in r.stdout, f"bp {args} has no --json")


def test_binary_client_and_doctor():
    """The client port answers whoever holds the client's key; doctor compares what is with what should be."""
    with Site("access") as site:
        site.start_daemon()
        site.bp("access", "acc", "--out", os.path.join(site.folder, "none.json"), ok=4)
        site.bp("submit", site.recipe("acc"), "--wait")
        out = os.path.join(site.folder, "access.json")
        said = site.bp("access", "acc", "--out", out, "--json").stdout
        with open(out) as f:
            access = json.load(f)
        check(os.stat(out).st_mode & 0o777 == 0o600, "the key's file is 0600")
        check(access["endpoint"].startswith("tcp://") and len(access["client_secret_key"]) == 40, f"{access.keys()}")
        check(access["client_secret_key"] not in said, "the key goes to the file only")
        question = ("acc", "What is the capital of France?", "--max-tokens", "12")
        over_http = site.bp("generate", *question).stdout
        binary = site.bp("generate", *question, "--binary").stdout
        check(binary == over_http and "Paris" in binary, f"{binary!r} over the client port, {over_http!r} over HTTP")
        last = json.loads(site.bp("generate", *question, "--binary", "--json").stdout.splitlines()[-1])
        check(last["done"] and last["completion_tokens"] > 0, f"{last}")
        # A client that dies has its generation stopped.
        def cancelled():
            with urllib.request.urlopen(site.show("acc")["metrics_url"], timeout=10) as r:
                return [int(float(x.split()[-1])) for x in r.read().decode().splitlines()
                        if x.startswith("bp_head_sequences_cancelled_total{")][0]
        story = ["generate", "acc", "Write a long story about a ship.", "--binary", "--max-tokens", "4000"]
        client = subprocess.Popen([os.path.join(harness.BIN, "bp"), *story], env=site.env, stdout=subprocess.PIPE)
        client.stdout.read(20)
        before = cancelled()
        client.kill()
        client.communicate()
        wait_until("the generation of a dead client to end", lambda: cancelled() == before + 1, 5)
        findings = [json.loads(line) for line in site.bp("doctor", "--replay", "--json").stdout.splitlines()]
        checks = {f["check"] for f in findings}
        for name in ("disk", "memory", "cores", "memory segments", "openat2", "addresses", "journal", "replay",
                     "processes", "deployment", "plugin", "program"):
            check(name in checks, f"doctor looks at {sorted(checks)}, not at {name}")
        check(all(f["level"] == "ok" for f in findings), f"{[f for f in findings if f['level'] != 'ok']}")
        whole = next(f["text"] for f in findings if f["check"] == "processes")
        check(whole.startswith("8 processes of acc"), f"stage host, 2 nodes, head, 4 ranks: {whole}")
        os.chmod(site.state, 0o755)
        r = site.bp("doctor", ok=1)
        check("state folder" in r.stdout and f"chmod 0700 {site.state}" in r.stdout, f"the remedy:\n{r.stdout}")
        os.chmod(site.state, 0o700)
        site.bp("stop", "acc")
        site.bp("access", "acc", "--out", out, ok=1)


def build_stage(prefix, work):
    """A third party's plugin, built outside the tree against the installed SDK."""
    source = os.path.join(work, "source")
    os.mkdir(source)
    for name in ("CMakeLists.txt", "announce.cc", "announce_test.cc"):
        shutil.copy(os.path.join(ROOT, "examples", "custom_stage", name), source)
    configure = ["cmake", "-S", source, "-B", os.path.join(work, "build"), "-G", "Ninja",
                 f"-DCMAKE_PREFIX_PATH={prefix}"]
    if shutil.which("ccache"):
        configure.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
    for command in (configure, ["cmake", "--build", os.path.join(work, "build")],
                    ["ctest", "--test-dir", os.path.join(work, "build"), "--output-on-failure"]):
        r = subprocess.run(command, capture_output=True, text=True, timeout=300)
        check(r.returncode == 0, f"{' '.join(command)}:\n{(r.stdout + r.stderr)[-3000:]}")
    return os.path.join(work, "build", "announce.so")


def test_installed_with_a_stage_of_ones_own():
    """cmake --install; a foreign plugin and its workflow put beside ours; the installed daemon runs them."""
    work = tempfile.mkdtemp(prefix="bp-installed-", dir="/tmp")
    old_bin = harness.BIN
    try:
        prefix = os.path.join(work, "prefix")
        r = subprocess.run(["cmake", "--install", harness.BUILD, "--prefix", prefix], capture_output=True, text=True)
        check(r.returncode == 0, r.stderr[-2000:])
        plugins = glob.glob(f"{prefix}/lib*/**/plugins", recursive=True)
        check(len(plugins) == 1, f"one folder of plugins, found {plugins}")
        unit = glob.glob(f"{prefix}/lib/systemd/system/bp-daemon.service")
        check(len(unit) == 1, "a unit for systemd")
        with open(unit[0]) as f:
            text = f.read()
        check(f"ExecStart={prefix}/bin/bp-daemon" in text, f"the unit starts something else:\n{text}")
        shutil.copy(build_stage(prefix, work), plugins[0])
        announced = os.path.join(work, "announced")
        with open(os.path.join(ROOT, "examples", "custom_stage", "announced.workflow.json")) as f:
            workflow = json.load(f)
        workflow["stages"][-1]["options"]["folder"] = announced
        with open(os.path.join(plugins[0], "announced.workflow.json"), "w") as f:
            json.dump(workflow, f)
        harness.BIN = os.path.join(prefix, "bin")
        with Site("inst") as site:
            site.start_daemon()
            r = site.bp("submit", site.recipe("own"), "--workflow", "none-such", ok=4)
            check("announced, default" in r.stderr, f"names the installed workflows: {r.stderr}")
            site.bp("submit", os.path.join(site.folder, "own.json"), "--workflow", "announced", "--wait")
            view = site.show("own")
            check([s["name"] for s in view["stages"]] == STAGES + ["announce"], f"{view['stages']}")
            with open(os.path.join(announced, "own.json")) as f:
                check(json.load(f) == {"deployment": "own", "url": view["endpoint"]}, "what it announced")
            for p in site.processes():
                check(p.args[0].startswith(prefix), f"{p} is not of the installed tree: {p.args[0]}")
            site.bp("stop", "own")
            check(os.listdir(announced) == [], "the announcement is gone with the deployment")
            check(not site.leftovers(), f"left over: {site.leftovers()}")
    finally:
        harness.BIN = old_bin
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main([test_every_command_has_help, test_idempotency, test_secrets, test_commands_in_every_state,
          test_binary_client_and_doctor, test_installed_with_a_stage_of_ones_own])
