"""Drives real bp-daemon installations for end-to-end and fault tests.

A Site is one daemon with its own state and run folders, an object store on loopback, and everything they
start. Every wait has a deadline; closing a Site proves that nothing of it is left.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("BP_BUILD_DIR", os.path.join(ROOT, "build", "release"))
BIN = os.path.join(BUILD, "bin")
CACHE = os.environ.get("BP_CACHE_DIR") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bp-daemon")
MODEL = os.environ.get("BP_TEST_MODEL") or os.path.join(CACHE, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
KINDS = {"bp-daemon": "daemon", "bp-stage-host": "stage-host", "bp-node": "node", "bp-head": "head", "bp-rank": "rank"}
STAGES = ["validate", "provision", "fetch_weights", "start_head", "join_workers", "serve"]


class Failure(Exception):
    """What a test found wrong, in words for the person who reads the log."""


def check(condition, text):
    if not condition:
        raise Failure(text)


def wait_until(what, predicate, seconds, interval=0.02):
    deadline = time.monotonic() + seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds} s for {what}")
        time.sleep(interval)


class Process:
    """One process of a site as /proc shows it."""

    def __init__(self, pid):
        self.pid = pid
        with open(f"/proc/{pid}/comm") as f:
            self.kind = KINDS.get(f.read().strip())
        if self.kind is None:
            return  # somebody else's: not looked at any further
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            self.args = f.read().decode(errors="replace").split("\0")[:-1]
        with open(f"/proc/{pid}/stat") as f:
            tail = f.read().rsplit(")", 1)[1].split()
        self.state, self.start = tail[0], int(tail[19])
        with open(f"/proc/{pid}/environ", "rb") as f:
            self.env = dict(e.split("=", 1) for e in f.read().decode(errors="replace").split("\0") if "=" in e)
        self.kind = KINDS.get(os.path.basename(self.args[0]) if self.args else "")

    def __repr__(self):
        return f"{self.kind}[{self.pid}]"


class Store:
    """The object store of examples/quickstart on a free loopback port."""

    def __init__(self, folder, faults=None):
        self.folder = folder
        self.faults = os.path.join(folder, "faults.json")
        self.set_faults(faults or [])
        root = os.path.join(folder, "root")
        os.makedirs(os.path.join(root, "models"), exist_ok=True)
        self.root = root
        self.log = open(os.path.join(folder, "store.log"), "wb")
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "examples", "quickstart", "par_store.py"), "--root", root,
             "--namespace", "test", "--port", "0", "--faults", self.faults],
            stdout=subprocess.PIPE, stderr=self.log)
        line = self.process.stdout.readline().decode().strip()
        check(line.startswith("http://"), f"the object store printed {line!r} instead of its URL")
        self.par = line

    def set_faults(self, faults):
        tmp = self.faults + ".tmp"
        with open(tmp, "w") as f:
            json.dump(faults, f)
        os.replace(tmp, self.faults)

    def add(self, name, source):
        path = os.path.join(self.root, "models", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.lexists(path):
            os.symlink(source, path)

    def close(self):
        self.process.kill()
        self.process.wait(10)
        self.log.close()


class Command:
    """A program that runs beside the test and is ended with the `with` block."""

    def __init__(self, argv, env):
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=self.output,
                                        stderr=self.output)

    def text(self):
        """What it has printed until now."""
        return os.pread(self.output.fileno(), 1 << 20, 0).decode(errors="replace")

    def wait(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"waited {seconds} s for {' '.join(self.process.args)}; it printed:\n{self.text()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.output.close()


class Site:
    """One daemon, its store, and a recipe factory."""

    def __init__(self, name="site", daemon_args=(), state=None):
        self.folder = tempfile.mkdtemp(prefix=f"bp-{name}-", dir="/tmp")
        os.chmod(self.folder, 0o700)
        self.state = state or os.path.join(self.folder, "s")
        self.run = os.path.join(self.folder, "r")
        self.daemon_args = list(daemon_args)
        self.env = {**os.environ, "BP_STATE_DIR": self.state, "BP_RUN_DIR": self.run, "BP_SITE": self.folder}
        self.store = Store(self.folder)
        self.daemon = None
        self.keep = False

    # -- daemon ---------------------------------------------------------------------------------------
    def start_daemon(self):
        log = open(os.path.join(self.folder, "daemon.log"), "ab")
        self.daemon = subprocess.Popen(
            [os.path.join(BIN, "bp-daemon"), "--allow-private-stores", *self.daemon_args], env=self.env,
            stdout=log, stderr=log, start_new_session=True)
        log.close()
        wait_until("bp-daemon to answer", lambda: self.bp("list", "--json", ok=None).returncode == 0, 10, 0.01)

    def bp(self, *args, ok=0, timeout=120, stdin=None):
        """Runs bp; `ok` is the exit code to insist on, None takes any."""
        r = subprocess.run([os.path.join(BIN, "bp"), *args], env=self.env, capture_output=True, text=True,
                           timeout=timeout, input=stdin)
        if ok is not None:
            check(r.returncode == ok, f"bp {' '.join(args)}: exit code {r.returncode}, expected {ok}\n"
                                      f"stdout: {r.stdout[-2000:]}\nstderr: {r.stderr[-2000:]}")
        return r

    def bp_background(self, *args):
        """bp that goes on beside the test; see Command."""
        return Command([os.path.join(BIN, "bp"), *args], self.env)

    def show(self, run):
        return json.loads(self.bp("show", run, "--json").stdout)

    def try_show(self, run):
        try:
            r = self.bp("show", run, "--json", ok=None, timeout=20)
            return json.loads(r.stdout) if r.returncode == 0 else None
        except (ValueError, subprocess.TimeoutExpired):
            return None

    def whole_view(self, run):
        """The run as `bp show` has it, once it serves and all of its nodes are connected; None until then."""
        view = self.try_show(run)
        up = view and view["state"] == "serving" and all(n["state"] == "up" for n in view["nodes"])
        return view if up else None

    # -- recipes --------------------------------------------------------------------------------------
    def recipe(self, name, nodes=2, gpus=2, shape="VM.GPU.A10.2", folder="SmolLM2-135M-Instruct", with_model=True,
               **overrides):
        if with_model:
            check(os.path.isfile(MODEL), f"the model {MODEL} is missing; ./setup.sh fetches it")
            self.store.add(f"{folder}/{os.path.basename(MODEL)}", MODEL)
        recipe = {
            "recipe_id": "test", "recipe_mode": "raycluster", "deployment_name": name, "recipe_node_shape": shape,
            "input_object_storage": [{"par": self.store.par, "mount_location": "/models",
                                      "volume_size_in_gbs": 50, "include": [folder]}],
            "recipe_node_pool_size": nodes, "recipe_node_boot_volume_size_in_gbs": 200,
            "recipe_nvidia_gpu_count": gpus, "recipe_ephemeral_storage_size": 100,
            "recipe_container_port": "8000",
            "recipe_raycluster_params": {
                "model_path_in_container": f"/models/{folder}",
                "head_node_num_cpus": "8", "head_node_num_gpus": str(gpus), "head_node_cpu_mem_in_gbs": "64",
                "num_worker_nodes": str(nodes - 1), "worker_node_num_cpus": "8",
                "worker_node_num_gpus": str(gpus), "worker_node_cpu_mem_in_gbs": "64"}}
        recipe.update(overrides)
        path = os.path.join(self.folder, f"{name}.json")
        with open(path, "w") as f:
            json.dump(recipe, f)
        return path

    def wait_state(self, run, states, seconds):
        states = {states} if isinstance(states, str) else set(states)

        def look():
            view = self.try_show(run)
            return view if view and view["state"] in states else None
        try:
            return wait_until(f"{run} to be {' or '.join(sorted(states))}", look, seconds, 0.05)
        except Failure as e:
            view = self.try_show(run)
            raise Failure(f"{e}; it is {json.dumps(view)[:1500]}")

    # -- what runs ------------------------------------------------------------------------------------
    def processes(self, kind=None):
        """Living processes of this site, found by their environment; zombies do not count."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                p = Process(int(entry))
            except (OSError, IndexError, ValueError):
                continue
            if p.kind is None or p.state in "ZX":
                continue
            text = " ".join(p.args)
            if p.env.get("BP_SITE") == self.folder or self.folder in text or \
                    any(self.folder in v for v in p.env.values()):
                if kind in (None, p.kind):
                    found.append(p)
        return found

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)

    def leftovers(self):
        """Lines that say what of a stopped deployment is still there (the daemon itself excepted)."""
        lines = [f"process {p!r} {' '.join(p.args)[:200]}" for p in self.processes() if p.kind != "daemon"]
        nodes = os.path.join(self.state, "nodes")
        if os.path.isdir(nodes):
            lines += [f"work folder {n}" for n in os.listdir(nodes)]
        if os.path.isdir(self.run):
            lines += [f"socket file {f}" for f in os.listdir(self.run) if f not in ("client.sock", "stage.sock")]
        return lines

    def close(self):
        daemons = [p.pid for p in self.processes("daemon")]
        for pid in daemons:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        if self.daemon:
            try:
                self.daemon.wait(10)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait(10)
        for p in self.processes():
            try:
                os.kill(p.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.store.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind is not None:
            self.keep = bool(os.environ.get("BP_KEEP"))
            log = os.path.join(self.folder, "daemon.log")
            if os.path.isfile(log):
                with open(log, errors="replace") as f:
                    tail = f.readlines()[-60:]
                print("---- end of daemon.log ----\n" + "".join(tail), file=sys.stderr)
        self.close()


class DoubleWatch(threading.Thread):
    """Looks at /proc all the time and notes two living processes that claim the same part.

    Heads and ranks: never two. Daemons and agents: the second one may start, find the lock taken and end;
    two that live side by side for RIVAL_SECONDS are one too many.
    """
    RIVAL_SECONDS = 3.0

    def __init__(self, site):
        super().__init__(daemon=True)
        self.site, self.stop, self.seen = site, threading.Event(), []

    def part(self, p):
        """(what only one living process may be, for how many seconds two are borne with) or None."""
        if p.kind in ("head", "rank"):
            return (p.kind, p.env.get("BP_RUN_ID"), p.env.get("BP_PROCESS_KEY")), 0.0
        if p.kind == "node" and "--node-id" in p.args[:-1]:
            return (p.kind, p.args[p.args.index("--node-id") + 1]), self.RIVAL_SECONDS
        return ((p.kind,), self.RIVAL_SECONDS) if p.kind == "daemon" else None

    def run(self):
        since = {}
        while not self.stop.is_set():
            parts = {}
            for p in self.site.processes():
                part = self.part(p)
                if part:
                    parts.setdefault(part, []).append(p)
            # What has ended since it was read is no double.
            doubles = {part: [p for p in ps if os.path.exists(f"/proc/{p.pid}/exe")]
                       for part, ps in parts.items() if len(ps) > 1}
            doubles = {part: ps for part, ps in doubles.items() if len(ps) > 1}
            now = time.monotonic()
            since = {part: since.get(part, now) for part in doubles}
            self.seen += [f"{key}: {doubles[key, borne]}" for (key, borne), begin in since.items()
                          if now - begin >= borne]
            time.sleep(0.03)

    def finish(self):
        self.stop.set()
        self.join(10)
        return self.seen


def chat(endpoint, text, max_tokens=16, stream_seconds=60):
    """One greedy chat completion over HTTP; returns its text."""
    import http.client
    import urllib.parse
    url = urllib.parse.urlsplit(endpoint)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=stream_seconds)
    connection.request("GET", "/v1/models")
    model = json.load(connection.getresponse())["data"][0]["id"]
    connection.request("POST", "/v1/chat/completions", json.dumps({
        "model": model, "messages": [{"role": "user", "content": text}], "temperature": 0,
        "max_tokens": max_tokens}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    check(response.status == 200, f"HTTP {response.status}: {body[:500]!r}")
    return json.loads(body)["choices"][0]["message"]["content"]


def main(tests):
    """Runs the named test functions (all without names), prints one line each, sets the exit code."""
    names = sys.argv[1:]
    failed = 0
    for test in tests:
        if names and test.__name__ not in names:
            continue
        begin = time.monotonic()
        try:
            test()
            print(f"ok    {test.__name__}  {time.monotonic() - begin:.1f} s", flush=True)
        except Failure as e:
            failed += 1
            print(f"FAIL  {test.__name__}  {time.monotonic() - begin:.1f} s\n      {e}", flush=True)
    sys.exit(1 if failed else 0)
