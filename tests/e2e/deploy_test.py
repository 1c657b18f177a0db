#!/usr/bin/env python3
"""A deployment from recipe to answer to nothing left, over real processes."""
import contextlib
import json
import os
import time

from harness import Site, chat, check, main, wait_until, STAGES


def up(site, path, name, seconds=90):
    site.bp("submit", path, "--wait", timeout=seconds)
    view = site.show(name)
    check(view["state"] == "serving", f"state {view['state']} after submit --wait")
    return view


def test_quickstart_layout():
    """2 nodes x 2 ranks serve, every field of show is there, stop leaves nothing."""
    with Site("deploy") as site:
        site.start_daemon()
        view = up(site, site.recipe("quick"), "quick")
        check([s["name"] for s in view["stages"]] == STAGES, f"stages {view['stages']}")
        for s in view["stages"]:
            check(s["started_wall_ms"] > 0 and s["attempt"] >= 1, f"stage without times or attempts: {s}")
        check("cpu stand-in for VM.GPU.A10.2" in view["stand_in"], f"stand_in {view['stand_in']!r}")
        check(len(view["nodes"]) == 2, f"nodes {view['nodes']}")
        ranks = [p for p in view["processes"] if p["role"] == "rank"]
        check(sorted((p["tp_rank"], p["pp_rank"]) for p in ranks) == [(0, 0), (0, 1), (1, 0), (1, 1)],
              f"ranks {ranks}")
        for p in view["processes"]:
            check(p["identity"]["pid"] > 0 and p["epoch"]["counter"] > 0 and p["node_id"], f"process {p}")
        answer = chat(view["endpoint"], "What is the capital of France?")
        check("Paris" in answer, f"answer {answer!r}")
        check(site.show(view["id"])["name"] == "quick", "an id is accepted where a name is")
        said = site.bp("generate", "quick", "What is the capital of France?", "--max-tokens", "16").stdout
        check("Paris" in said, f"bp generate said {said!r}")
        token = site.store.par.split("/p/")[1].split("/")[0]
        for root, _, files in os.walk(site.folder):
            for f in files:
                path = os.path.join(root, f)
                if f.endswith(".log") and not f.startswith("store"):
                    with open(path, errors="replace") as text:
                        check(token not in text.read(), f"the PAR token stands in {path}")
        for args in (("show", "quick", "--json"), ("logs", "quick"), ("list", "--json")):
            check(token not in site.bp(*args).stdout, f"bp {args} prints the PAR token")
        site.bp("stop", "quick")
        check(site.show("quick")["state"] == "stopped", "stopped after stop")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_published_recipe():
    """4 nodes x 2 ranks from a recipe with numbers as strings."""
    with Site("a10") as site:
        site.start_daemon()
        folder = "NousResearch/Meta-Llama-3.1-8B-Instruct"
        view = up(site, site.recipe("raycluster_vm_test", nodes=4, folder=folder), "raycluster-vm-test", 120)
        check(len([p for p in view["processes"] if p["role"] == "rank"]) == 8, "8 ranks")
        check("Paris" in chat(view["endpoint"], "What is the capital of France?"), "the right answer")
        site.bp("stop", "raycluster-vm-test")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_daemon_kill_while_streaming():
    """A stream that runs through a daemon kill -9 never notices; the next bp finds everything as it was."""
    with Site("stream") as site:
        site.start_daemon()
        view = up(site, site.recipe("s"), "s")
        before = {p["identity"]["pid"] for p in view["processes"]}

        def kill_daemon(chunks):
            if chunks == 20:
                site.kill(site.daemon.pid)
                site.daemon.wait(10)
                site.start_daemon()
        stream_text(view["endpoint"], view["model"], kill_daemon)
        view = site.wait_state("s", "serving", 20)
        check(before <= {p["identity"]["pid"] for p in view["processes"]}, "the same processes serve on")
        site.bp("stop", "s")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def embedded_daemon(site, other_than=None):
    """The one daemon of the site, once it is there, looked up without any bp command."""
    def look():
        found = [p for p in site.processes("daemon") if p.pid != other_than]
        return found[0] if found and os.path.exists(os.path.join(site.run, "client.sock")) else None
    return wait_until("an embedded daemon", look, 20)


def test_up_restarts_its_daemon():
    """`bp up` starts a daemon, and brings it back each time it dies while `up` waits."""
    with Site("up") as site:
        path = site.recipe("u")
        site.store.set_faults([{"match": "*gguf*", "on": "get", "bytes_per_s": 20_000_000}])
        with site.bp_background("up", path, "--allow-private-stores") as up_:
            daemon = embedded_daemon(site)
            for expected in ("provision", "fetch_weights"):
                wait_until(f"stage {expected}", lambda: expected in up_.text(), 30)
                site.kill(daemon.pid)
                daemon = embedded_daemon(site, other_than=daemon.pid)
            check(up_.wait(60) == 0, f"bp up ended with {up_.process.returncode}:\n{up_.text()}")
            check("endpoint http://" in up_.text(), f"no endpoint in:\n{up_.text()}")
        view = site.show("u")
        check(view["state"] == "serving", f"state {view['state']} after bp up")
        check("Paris" in chat(view["endpoint"], "What is the capital of France?"), "the right answer")
        check(len(site.processes("daemon")) == 1, f"daemons {site.processes('daemon')}")
        site.bp("stop", "u")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_next_command_restarts_the_daemon():
    """An embedded daemon that died is started by the next bp command, also by many at once; one that was
    stopped is not."""
    with Site("next") as site:
        site.bp("up", site.recipe("n"), "--allow-private-stores")
        before = {p["identity"]["pid"] for p in site.show("n")["processes"]}
        for together in (1, 6):
            old = embedded_daemon(site)
            site.kill(old.pid)
            wait_until("the daemon to be gone", lambda: old.pid not in [p.pid for p in site.processes("daemon")], 10)
            with contextlib.ExitStack() as stack:
                commands = [stack.enter_context(site.bp_background("list", "--json")) for _ in range(together)]
                for c in commands:
                    check(c.wait(30) == 0, f"bp list: exit code {c.process.returncode}: {c.text()}")
            alive = site.processes("daemon")
            check(len(alive) == 1 and alive[0].pid != old.pid, f"daemons {alive} after the death of {old.pid}")
            view = wait_until("nodes to dial in again", lambda: site.whole_view("n"), 20)
            check(before == {p["identity"]["pid"] for p in view["processes"]}, "the same processes serve on")
        check("Paris" in chat(view["endpoint"], "What is the capital of France?"), "the right answer")
        site.bp("daemon", "stop")
        site.bp("list", ok=3)
        check(not site.processes("daemon"), f"daemons {site.processes('daemon')} after daemon stop")
        check("Paris" in chat(view["endpoint"], "What is the capital of France?"), "deployments serve on")
        site.start_daemon()
        site.wait_state("n", "serving", 20)
        site.bp("stop", "n")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def stream_text(endpoint, model, on_chunk=lambda n: None, tokens=200):
    """One greedy streamed completion: its text and the longest silence in seconds. `on_chunk` sees the count."""
    import http.client
    import time
    import urllib.parse
    url = urllib.parse.urlsplit(endpoint)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps({
        "model": model, "prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0,
        "stream": True, "ignore_eos": True}), {"Content-Type": "application/json"})
    text, chunks, silence, last, done = "", 0, 0.0, time.monotonic(), False
    for line in connection.getresponse():
        if line.startswith(b"data: [DONE]"):
            done = True
        elif line.startswith(b"data: "):
            chunk = json.loads(line[6:])
            check("error" not in chunk, f"error in the stream after {chunks} chunks: {chunk}")
            text += chunk["choices"][0]["text"]
            chunks += 1
            silence, last = max(silence, time.monotonic() - last), time.monotonic()
            on_chunk(chunks)
    check(done and chunks >= tokens, f"the stream ended after {chunks} of {tokens} chunks, done={done}")
    return text, silence


def test_rank_kill_while_streaming():
    """A stream during which a rank of each stage is killed goes on, with the very tokens of an undisturbed one."""
    with Site("rank") as site:
        site.start_daemon()
        view = up(site, site.recipe("r"), "r")
        undisturbed, _ = stream_text(view["endpoint"], view["model"])
        for pp_rank in (0, 1):
            victim = next(p for p in site.wait_state("r", "serving", 20)["processes"]
                          if p["role"] == "rank" and p["pp_rank"] == pp_rank)
            text, silence = stream_text(
                view["endpoint"], view["model"],
                lambda n, pid=victim["identity"]["pid"]: site.kill(pid) if n == 30 else None)
            check(text == undisturbed, f"other tokens after the kill:\n{text}\ninstead of\n{undisturbed}")
            print(f"      rank of stage {pp_rank} killed: longest silence {silence:.2f} s")
            now = {p["identity"]["pid"] for p in site.wait_state("r", "serving", 20)["processes"]}
            check(victim["identity"]["pid"] not in now, "show still names the killed rank")
        site.bp("stop", "r")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_stop_survives_kills():
    """A daemon or an agent killed while a deployment is torn down: it still ends in nothing left."""
    with Site("down") as site:
        site.start_daemon()
        path = site.recipe("d")
        for kind, after_ms in (("daemon", 30), ("node", 30), ("stage-host", 60), ("daemon", 250)):
            up(site, path, "d")
            run = site.show("d")["id"]
            site.bp("stop", run, "--no-wait")
            time.sleep(after_ms / 1000)
            victims = site.processes(kind)
            if victims:  # else it was quicker than this test
                site.kill(victims[0].pid)
            if kind == "daemon":
                site.daemon.wait(10)
                site.start_daemon()
            site.wait_state(run, "stopped", 40)
            check(not site.leftovers(), f"left over after a {kind} was killed: {site.leftovers()}")


def test_cancel_while_fetching():
    """Cancel reaches a stage that is at work and ends in nothing left."""
    with Site("cancel") as site:
        site.start_daemon()
        path = site.recipe("c")
        site.store.set_faults([{"match": "*gguf*", "on": "get", "bytes_per_s": 3_000_000}])
        run = json.loads(site.bp("submit", path, "--json").stdout)["run_id"]
        wait_until("fetch_weights to run",
                   lambda: (site.try_show(run) or {}).get("current_stage") == "fetch_weights", 30)
        site.bp("cancel", run)
        site.wait_state(run, "cancelled", 30)
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_bad_recipes():
    """Each kind of bad input: exit code 2, every problem named, nothing started."""
    with Site("bad") as site:
        site.start_daemon()
        check(site.bp("submit", "-", ok=2, stdin="not json").stderr.strip(), "an error text")
        site.bp("submit", "-", ok=2, stdin='{"a":' * 5000)
        site.bp("submit", "-", ok=2, stdin='"' + "x" * 100_000_000 + '"')
        path = site.recipe("bad", recipe_node_pool_size="7", recipe_container_port="6379", recipe_nod_shape="x")
        err = site.bp("submit", path, ok=2).stderr
        for expected in ("recipe_node_pool_size", "recipe_container_port", "recipe_nod_shape", "recipe_node_shape"):
            check(expected in err, f"{expected} is missing from:\n{err}")
        site.bp("show", "nothing-of-that-name", ok=4)
        check("bad" not in site.bp("list", "--all").stdout, "a refused recipe leaves no deployment")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_store_faults():
    """403, 404, a lying file: the deployment fails with a word about it and leaves nothing; 500 and cuts
    are retried."""
    with Site("faults") as site:
        site.start_daemon()
        for status in (403, 404):
            site.store.set_faults([{"match": "*", "status": status}])
            name = f"status{status}"
            r = site.bp("submit", site.recipe(name), "--wait", ok=1)
            check(str(status) in r.stderr + r.stdout, f"{status} is not named:\n{r.stderr}")
            check(site.show(name)["state"] == "failed", "failed")
        site.store.set_faults([])
        lying = os.path.join(site.folder, "lying.gguf")
        with open(lying, "wb") as f:
            f.write(b"GGUF" + (3).to_bytes(4, "little") + (2**62).to_bytes(8, "little") * 2)
        site.store.add("lying/model.gguf", lying)
        path = site.recipe("lying", folder="lying", with_model=False)
        r = site.bp("submit", path, "--wait", ok=1)
        check("gguf" in (r.stderr + r.stdout).lower(), f"the file is not named:\n{r.stderr}")
        site.store.set_faults([{"match": "*gguf*", "on": "get", "status": 500, "times": 2},
                               {"match": "*gguf*", "on": "get", "cut_after": 100_000, "times": 2}])
        up(site, site.recipe("retried"), "retried", 120)
        site.bp("stop", "retried")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_busy_port():
    """A port of the recipe that is taken: the error names the address."""
    import socket
    with Site("busy") as site:
        site.start_daemon()
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("0.0.0.0", 0))
            s.listen()
            port = s.getsockname()[1]
            r = site.bp("submit", site.recipe("busy", recipe_container_port=str(port)), "--wait", ok=1)
            check(str(port) in r.stderr + r.stdout, f"port {port} is not named:\n{r.stderr}")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_plan_without_a_daemon():
    """bp plan reads listing and header itself; it tells what it cannot know, and what is wrong outside."""
    with Site("plan") as site:
        path = site.recipe("p")
        said = site.bp("plan", path, "--allow-private-stores").stdout
        for word in ("30 layers", "Q4_1", "TP 2 x PP 2", "KV pool of"):
            check(word in said, f"{word!r} is missing from:\n{said}")
        plan = json.loads(site.bp("plan", path, "--allow-private-stores", "--json").stdout)
        check(len(plan["ranks"]) == 4 and all(int(r["weight_bytes"]) > 0 for r in plan["ranks"]), f"{plan}")
        r = site.bp("plan", path)
        check("TP 2 x PP 2" in r.stdout and "BP_FORBIDDEN_ADDRESS" not in r.stdout, r.stdout)
        check("not known" in r.stderr and "--allow-private-stores" in r.stderr, r.stderr)
        site.bp("plan", site.recipe("q", recipe_node_pool_size="7"), ok=2)
        r = site.bp("plan", site.recipe("none", folder="nothing", with_model=False), "--allow-private-stores", ok=1)
        check("nothing" in r.stderr, r.stderr)
        site.store.set_faults([{"match": "*", "on": "list", "status": 404}])
        check("404" in site.bp("plan", path, "--allow-private-stores", ok=1).stderr, "404 is named")
        site.store.set_faults([{"match": "*", "on": "list", "status": 503}])
        check("503" in site.bp("plan", path, "--allow-private-stores").stderr, "503 is named")
        site.store.process.kill()
        site.store.process.wait(10)
        r = site.bp("plan", path, "--allow-private-stores")
        check("TP 2 x PP 2" in r.stdout and "not known" in r.stderr, r.stderr)
        token = site.store.par.split("/p/")[1].split("/")[0]
        check(token not in r.stdout + r.stderr, "the PAR token is printed")
        check(not os.path.exists(os.path.join(site.state, "journal.db")), "no daemon was started")


if __name__ == "__main__":
    main([test_quickstart_layout, test_published_recipe, test_daemon_kill_while_streaming,
          test_rank_kill_while_streaming,
          test_up_restarts_its_daemon, test_next_command_restarts_the_daemon, test_stop_survives_kills,
          test_cancel_while_fetching, test_bad_recipes, test_store_faults, test_busy_port,
          test_plan_without_a_daemon])
