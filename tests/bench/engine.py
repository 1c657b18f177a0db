"""Benchmarks of the engine: the real bp-daemon, a real shared stage host with a stage that does
nothing over ZeroMQ, a client in its own process. Built by `ninja benchmarks`.

BP_BENCH_SECONDS (10) is how long throughput is measured; BP_BENCH_ENDED (0) how many ended runs the
journal holds before; BP_BENCH_RUNS_LISTED (1,000,000) for engine.list_10m_ms: 10000000 is the full
form."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from datetime import datetime

from harness import Failure

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("BP_BUILD_DIR", os.path.join(ROOT, "build", "release"))
SECONDS = float(os.environ.get("BP_BENCH_SECONDS", "10"))
ENDED = int(os.environ.get("BP_BENCH_ENDED", "0"))
LISTED = int(os.environ.get("BP_BENCH_RUNS_LISTED", "1000000"))


def tool(name, *arguments, timeout=1800):
    done = subprocess.run([os.path.join(BUILD, "tests", name), *arguments], capture_output=True, text=True,
                          timeout=timeout)
    if done.returncode != 0:
        raise Failure(f"{name} {' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else {}


class Daemon:
    """A daemon in a folder of its own. Leaves nothing running."""

    def __init__(self, ended=0):
        self.dir = tempfile.mkdtemp(prefix="bp-bench-")
        self.endpoint = f"ipc://{self.dir}/r/client.sock"
        self.process = None
        if ended:
            os.makedirs(f"{self.dir}/s")
            tool("engine_fill", "--journal", f"{self.dir}/s/journal.db", "--runs", str(ended))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.kill(signal.SIGKILL)
        for host in self.hosts():
            os.kill(host, signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)
        return False

    def start(self, *options, wait=True):
        log = open(f"{self.dir}/log", "ab")
        self.process = subprocess.Popen(
            [f"{BUILD}/bin/bp-daemon", "--state-dir", f"{self.dir}/s", "--run-dir", f"{self.dir}/r",
             "--plugin-dir", f"{BUILD}/tests/plugins",
             "--workflow-dir", os.path.join(ROOT, "tests", "bench", "engine", "workflows"), *options],
            stderr=log, stdout=log)
        log.close()
        end = time.monotonic() + 60
        while wait and "daemon.ready" not in self.log():
            if time.monotonic() > end or self.process.poll() is not None:
                raise Failure("the daemon does not start: " + self.log()[-2000:])
            time.sleep(0.02)
        return self

    def kill(self, how):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout=60)

    def log(self):
        with open(f"{self.dir}/log", encoding="utf-8", errors="replace") as f:
            return f.read()

    def hosts(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    line = f.read()
            except OSError:
                continue
            if b"bp-stage-host" in line and f"{self.dir}/r/".encode() in line:
                found.append(int(pid))
        return found

    def load(self, *arguments):
        return tool("engine_load", "--endpoint", self.endpoint, *arguments)

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024


def closed(seconds=SECONDS, ended=ENDED):
    with Daemon(ended) as d:
        return d.start().load("--seconds", str(seconds), "closed")


def alone():
    with Daemon() as d:
        return d.start().load("--runs", "500", "alone")


def recovery():
    """Milliseconds from exec to the first attempt sent, and to all attempts with a host again."""
    with Daemon() as d:
        d.start("--start-paused", "--admit-active", "20000")
        d.load("--runs", "10000", "leave")
        d.kill(signal.SIGKILL)
        before = len(d.log())
        begin = datetime.utcnow()
        d.start(wait=False)
        end = time.monotonic() + 30
        marks = {}
        while len(marks) < 2:
            if time.monotonic() > end:
                raise Failure("no recovery within 30 s: " + d.log()[before:][-2000:])
            time.sleep(0.1)
            for stamp, name in re.findall(r"(\S+)Z \S bp-daemon\[\d+\] (attempt.first_sent|recovery.dispatched) ",
                                          d.log()[before:]):
                marks.setdefault(name, (datetime.fromisoformat(stamp) - begin).total_seconds() * 1000)
        return marks


def waiting_rss():
    with Daemon() as d:
        d.start("--admit-active", "200000")
        d.load("--workflow", "waiting", "--runs", "100000", "leave")
        time.sleep(3)  # until all wait, and their rows are written
        return d.rss_mib()


def idle_rss():
    with Daemon() as d:
        d.start()
        time.sleep(1)
        return d.rss_mib()


def overload():
    peak = closed(seconds=5, ended=0)["runs_per_s"]
    with Daemon() as d:
        seen = d.start().load("--seconds", "5", "--warm", "2", "--rate", str(3 * peak), "offered")
        if seen["run_max_ms"] > 2000:
            raise Failure(f"a run took {seen['run_max_ms']} ms under overload")
        return seen["runs_per_s"] / peak


def ack_idle():
    return alone()["ack_p99_ms"]


def ack_loaded():
    peak = closed(seconds=5, ended=0)["runs_per_s"]
    with Daemon() as d:
        return d.start().load("--seconds", "5", "--rate", str(0.8 * peak), "offered")["ack_p99_ms"]


def listing():
    with Daemon(LISTED) as d:
        seen = d.start().load("--runs", "100", "list")
        return max(seen["list_p99_ms"], seen["search_p99_ms"])


def register(benchmark):
    def add(name, unit, runs, function, doc, **more):
        function.__doc__ = doc
        benchmark(name, unit, runs, **more)(function)
    add("engine.steps_per_s", "1/s", 3, lambda: 6 * closed()["runs_per_s"],
        "Durable steps a second, 512 six-stage runs in flight, payloads of 256 bytes.", aim=75000,
        peer="Restate 6,308; DBOS on SQLite 368; Temporal on SQLite 66")
    add("engine.run_p50_ms", "ms", 3, lambda: alone()["run_p50_ms"],
        "One six-stage run alone, submit to done, median.", aim=2, peer="Restate 9.9; DBOS 14.9; Temporal 349")
    add("engine.run_p99_ms", "ms", 3, lambda: alone()["run_p99_ms"],
        "One six-stage run alone, submit to done.", aim=5, peer="Restate 16")
    add("engine.submit_ack_p99_ms", "ms", 3, ack_idle, "Submit to durable acknowledgement, idle.", aim=1)
    add("engine.submit_ack_loaded_p99_ms", "ms", 3, ack_loaded,
        "Submit to durable acknowledgement, at 80 % of the capacity.", aim=10)
    add("engine.recovery_first_dispatch_ms", "ms", 3, lambda: recovery()["attempt.first_sent"],
        "10,000 live runs, kill -9: exec to the first attempt sent.", aim=500,
        peer="Restate 1,500-1,800 with 1,000 runs")
    add("engine.recovery_all_ms", "ms", 3, lambda: recovery()["recovery.dispatched"],
        "10,000 live runs, kill -9: exec until every attempt is with a host.", aim=2000)
    add("engine.idle_rss_mib", "MiB", 3, idle_rss, "Memory of an idle daemon.", aim=30, peer="Restate 270")
    add("engine.waiting_100k_rss_mib", "MiB", 1, waiting_rss, "Memory with 100,000 runs that wait.", aim=300)
    add("engine.overload_goodput", "ratio", 1, overload,
        "Runs ended at three times the capacity offered, against the peak.", aim=0.95)
    add("engine.list_10m_ms", "ms", 1, listing,
        "List of 100 runs and search by label over BP_BENCH_RUNS_LISTED ended runs, p99.", aim=50)
