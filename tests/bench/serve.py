"""Benchmarks of a real deployment through its endpoint: server.* and deployment.memory_mib.

BP_BENCH_LAYOUT=TPxPP chooses another layout than one rank with all cores (2x1: two ranks of one node, 1x2: two
nodes). Each row's note says what ran, with how many threads, and who used how much of the cores.
"""
import glob
import json
import os
import re
import subprocess
import urllib.request

from harness import BUILD, Failure, Site

CORES = os.cpu_count()
LAYOUT = tuple(int(n) for n in os.environ.get("BP_BENCH_LAYOUT", "1x1").split("x"))
LOAD = os.path.join(BUILD, "tests", "serve_load")
PROMPT_WORDS = 157      # of the load's vocabulary each is one token of SmolLM2


class Served:
    """A deployment that is kept for all benchmarks of a run."""
    one = None

    def __init__(self):
        tp, pp = LAYOUT
        self.site = Site("serve")
        self.site.start_daemon()
        shape = {1: "VM.GPU.A10.1", 2: "VM.GPU.A10.2", 4: "BM.GPU.A10.4"}[tp]
        self.site.bp("submit", self.site.recipe("load", nodes=pp, gpus=tp, shape=shape), "--wait")
        endpoint = self.site.show("load")["endpoint"]
        self.address, self.port = re.match(r"http://([^:/]+):(\d+)", endpoint).groups()
        with urllib.request.urlopen(f"{endpoint}/v1/models", timeout=10) as answer:
            self.model = json.load(answer)["data"][0]["id"]
        self.load(streams=1, requests=2, out=8, seed=next(SEEDS))    # what happens once is not measured

    @classmethod
    def get(cls):
        if cls.one is None:
            cls.one = cls()
        return cls.one

    @classmethod
    def close(cls):
        if cls.one:
            cls.one.site.bp("stop", "load", ok=None)
            cls.one.site.close()
            cls.one = None

    def cpu_seconds(self, kind):
        return sum(cpu_seconds(p.pid) for p in self.site.processes(kind))

    def kernels(self):
        for path in glob.glob(os.path.join(self.site.state, "nodes", "*", "logs", "rank-0.log")):
            with open(path, errors="replace") as f:
                found = re.findall(r"kernels=(\S+)", f.read())
            if found:
                return found[-1]
        raise Failure("no rank says which kernels it uses")

    def layout(self):
        ranks = LAYOUT[0] * LAYOUT[1]
        return f"TP={LAYOUT[0]} PP={LAYOUT[1]}, {max(1, CORES // ranks)} threads a rank, {self.kernels()}"

    def load(self, **options):
        argv = [LOAD, "--address", self.address, "--port", self.port, "--model", self.model,
                "--words", str(PROMPT_WORDS)]
        for name, value in options.items():
            argv += [f"--{name}", str(value)]
        before = {kind: self.cpu_seconds(kind) for kind in ("head", "rank")}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise Failure(f"serve_load ended with {done.returncode}: {done.stderr}")
        result = json.loads(done.stdout)
        for kind, cpu in before.items():
            result[f"{kind}_share"] = (self.cpu_seconds(kind) - cpu) / result["seconds"] / CORES
        result["client_share"] = result["client_cpu_s"] / result["seconds"] / CORES
        return result

    def note(self, r):
        return (f"{self.layout()}; {r['prompt_tokens']:.0f} tokens in, {r['tokens']:.0f} out; first token "
                f"{r['first_ms']:.0f} ms, then {r['between_ms']:.1f} ms each, longest gap "
                f"{r['longest_gap_ms']:.0f} ms; of {CORES} cores: ranks {r['rank_share']:.1%}, "
                f"head {r['head_share']:.1%}, load {r['client_share']:.1%}")


def register(benchmark):
    peers = {1: "llama-server 80 same file, 96 best format; vLLM 35", 4: "112, 140; 117", 8: "141, 185; 165",
             16: "158, 257; 178"}
    for streams, aim in ((1, 190), (4, 300), (8, 340), (16, 360)):
        def out_tok_s(streams=streams):
            served = Served.get()
            r = served.load(streams=streams, requests=max(6, 3 * streams), seed=next(SEEDS))
            return r["out_tok_s"], served.note(r)
        out_tok_s.__doc__ = (f"Tokens a second out of the endpoint, {streams} streams in a closed loop, 157 tokens in "
                             "and 64 out, the load on the same cores.")
        benchmark(f"server.out_tok_s.{streams}", "tok/s", runs=3, aim=aim, peer=peers[streams])(out_tok_s)

    @benchmark("server.first_token_ms", "ms", runs=5, aim=110, peer="llama-server 299 same file, 119 best format")
    def first_token():
        """First streamed text of an idle server, 157 tokens in."""
        served = Served.get()
        r = served.load(streams=1, requests=1, out=2, seed=next(SEEDS))
        return r["first_ms"], served.layout()

    @benchmark("server.head_us_a_token", "us", runs=3)
    def head_cost():
        """CPU time of the head for one token of one of 16 streams, behind ranks that take 4 ms a step and
        compute nothing: scheduling, text, JSON, HTTP."""
        program = os.path.join(BUILD, "tests", "fake_head")
        with subprocess.Popen([program, "4"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
            port = head.stdout.readline().strip().rsplit(":", 1)[1]
            done = subprocess.run([LOAD, "--port", port, "--model", "fake/model", "--streams", "16", "--requests",
                                   "160", "--words", "20"], capture_output=True, text=True, timeout=60)
            if done.returncode != 0:
                raise Failure(f"serve_load ended with {done.returncode}: {done.stderr}")
            r = json.loads(done.stdout)
            tokens, cpu = r["tokens"] * r["requests"], cpu_seconds(head.pid)
            head.stdin.close()
        return cpu / tokens * 1e6, (f"{r['out_tok_s']:.0f} tok/s; "
                                    f"load {r['client_cpu_s'] / tokens * 1e6:.1f} us a token")

    @benchmark("deployment.memory_mib", "MiB", runs=1, peer="vLLM 7,000 for the same model")
    def memory():
        """PSS of all processes of a deployment but the daemon, after load. The aim is weights + KV cache + 60 MiB a
        rank, which the note works out: what of the KV cache was never used takes no memory."""
        served = Served.get()
        served.load(streams=16, requests=16, seed=next(SEEDS))
        parts, shared = {}, {"weights": 0, "kv": 0}
        for p in served.site.processes():
            if p.kind != "daemon":
                parts[p.kind] = parts.get(p.kind, 0) + pss_mib(p.pid)
            if p.kind == "rank":
                for name in shared:
                    shared[name] += segment_mib(p.pid, name)
        ranks = LAYOUT[0] * LAYOUT[1]
        aim = sum(shared.values()) + 60 * ranks
        return sum(parts.values()), (
            f"{served.layout()}; aim {aim:.0f}: weights {shared['weights']:.0f}, KV in use {shared['kv']:.0f}, "
            "60 a rank; "
            + ", ".join(f"{k} {v:.0f}" for k, v in sorted(parts.items())))


def seeds():
    n = 0
    while True:     # no two runs share prompts: nothing is found in the cache of blocks
        n += 1
        yield n


SEEDS = seeds()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return int(re.search(r"^Pss:\s+(\d+) kB", f.read(), re.M).group(1)) / 1024


def segment_mib(pid, name):
    """Of the segments that the node made under names such as kv-0."""
    total, ours = 0, False
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                ours = "memfd:" in line and f"{name}-" in line
            elif ours and line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024
