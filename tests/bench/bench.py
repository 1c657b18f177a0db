#!/usr/bin/env python3
"""Runs benchmarks by name and prints medians.

usage: tests/bench/run.sh [NAME...] [--json] [--runs N] [--list]

Each benchmark is a function that makes one measurement; what it needs is built before (preset release).
`aim` is what we want to reach, `limit` what must not be missed, `peer` what others reach on a like machine.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fault"))
import engine  # noqa: E402
import serve  # noqa: E402
import streams  # noqa: E402
from harness import MODEL, Failure, Site  # noqa: E402

BENCHMARKS = {}


def benchmark(name, unit, runs, aim=None, limit=None, peer=""):
    def register(function):
        BENCHMARKS[name] = dict(function=function, unit=unit, runs=runs, aim=aim, limit=limit, peer=peer)
        return function
    return register


def first_streamed_token(endpoint):
    """Seconds until the first streamed text of a short chat completion."""
    import http.client
    import urllib.parse
    url = urllib.parse.urlsplit(endpoint)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    connection.request("GET", "/v1/models")
    model = json.load(connection.getresponse())["data"][0]["id"]
    begin = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps({
        "model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "stream": True, "max_tokens": 8, "temperature": 0}), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if line.startswith(b"data: {"):
            choices = json.loads(line[6:]).get("choices", [])
            if choices and choices[0].get("delta", {}).get("content"):
                return time.monotonic() - begin
    raise Failure("the stream ended without text")


@benchmark("deploy.first_token_ms", "ms", runs=5, aim=1000, limit=2000,
           peer="vLLM 72,000-154,000 (start to first token); llama-server 400 (one process)")
def deploy_first_token():
    """From `bp submit` of the quickstart layout (TP=2, PP=2, two nodes) to the first streamed token, with
    the weights in the nodes' caches and the daemon running."""
    with warm_site() as site:
        path = site.recipe("bench")
        begin = time.monotonic()
        site.bp("submit", path, "--wait")
        endpoint = site.show("bench")["endpoint"]
        first_streamed_token(endpoint)
        value = (time.monotonic() - begin) * 1000
        site.bp("stop", "bench")
        return value


@benchmark("engine.host_attempt_us", "us", runs=5, aim=4)
def host_attempt():
    """CPU of a shared stage host for one attempt of a stage that does nothing, 256 bytes in and out, 512 in
    flight: from the bytes of RunAttempt to the acknowledged result, all threads together."""
    build = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "release")
    done = subprocess.run([build + "/tests/bench_host", build + "/bin", build + "/tests/plugins/noop.so", "512",
                           "200000"], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Failure(f"bench_host ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)["host_attempt_us"]


def core_figure(name):
    build = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "release")
    done = subprocess.run([build + "/tests/bench_core"], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Failure(f"bench_core ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)[name]


@benchmark("engine.apply_us", "us", runs=5, aim=2)
def core_apply():
    """CPU of the pure core for one event (apply, who acts next, encoding) of six-stage shared runs, 512 in turn."""
    return core_figure("apply_us")


@benchmark("engine.waiting_run_bytes", "bytes", runs=3, aim=2000)
def core_waiting():
    """Memory that the core holds for one of 100,000 runs of six stages that wait for a signal."""
    return core_figure("waiting_run_bytes")


def build_file(name):
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build", "release", "tests", name)


def printed(pattern, *command):
    """The number that a program prints where `pattern` says."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    found = re.search(pattern, done.stdout)
    if done.returncode != 0 or not found:
        raise Failure(f"{' '.join(command)}: status {done.returncode}: {done.stdout[-500:]}")
    return float(found.group(1))


def runner_speed(what, *options):
    return printed(rf"{re.escape(what)} ([0-9.]+)", build_file("bp-runtime-bench"), "--threads", "2", *options)


# Peers: llama-bench 11434 (-t 2 -p 512 -n 64), on the Zen 5 machine with two cores that had these aims.
for weights, name, decode_aim, decode_peer, prompt_aim, prompt_peer in (
        ("file", "", 345, "llama.cpp Q4_1 122, Q4_0 230", 2820, "llama.cpp Q4_1 126-380, Q4_0 1,659"),
        ("q8_0", "_q8_0", 210, "llama.cpp Q8_0 175", 1530, "llama.cpp Q8_0 1,021"),
        ("bf16", "_bf16", 143, "llama.cpp BF16 119", 2530, "llama.cpp BF16 1,686")):
    def decode(weights=weights):
        return runner_speed("decode.1", "--as", weights, "--decode", "1")

    def prompt(weights=weights):
        return runner_speed("prompt.512", "--as", weights, "--prompt", "512")
    shown = "the file's" if weights == "file" else weights.upper()
    decode.__doc__ = f"Tokens a second of one stream, model runner alone, 2 threads, {shown} weights."
    prompt.__doc__ = f"Tokens a second of a prompt of 512 tokens, model runner alone, 2 threads, {shown} weights."
    benchmark(f"runtime.decode_tok_s{name}", "tok/s", runs=3, aim=decode_aim, peer=decode_peer)(decode)
    benchmark(f"runtime.prompt_tok_s{name}", "tok/s", runs=3, aim=prompt_aim, peer=prompt_peer)(prompt)


@benchmark("runtime.kl_q4_1", "nats", runs=1, aim=0.0033, limit=0.0033, peer="llama.cpp 0.0033")
def runtime_kl():
    """Mean KL divergence of the default mode from FP32 activations over the same Q4_1 weights, 3,976 tokens."""
    return printed(r"mean KL ([0-9.e-]+)", build_file("golden_llama"), "the default mode stays near FP32")


@benchmark("runtime.roofline", "tok/s", runs=1)
def runtime_roofline():
    """A table of the model's operations, one stream and a prompt: time, bytes, arithmetic, shares of the machine."""
    done = subprocess.run([build_file("bp-runtime-bench"), "--decode", "1,16", "--prompt", "512", "--roofline"],
                          stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    print(done.stdout, file=sys.stderr)
    return float(re.search(r"decode.1 ([0-9.]+)", done.stdout).group(1))


serve.register(benchmark)


def told(key, *command):
    """One number of the line of JSON that a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout)[key]


@benchmark("comm.shm_allreduce_us", "us", runs=5, aim=1, peer="Gloo over loopback: comm.gloo_allreduce_us")
def comm_shm():
    """Sum of 576 values over two ranks of one node, median of 18,000, two processes, the memory shared."""
    return told("us", build_file("bench_comm"), "shm", "576")


@benchmark("comm.tcp_allreduce_us", "us", runs=5, peer="Gloo over loopback: comm.gloo_allreduce_us")
def comm_tcp():
    """The same over our encrypted connections, on loopback."""
    return told("us", build_file("bench_comm"), "tcp", "576")


@benchmark("comm.gloo_allreduce_us", "us", runs=5)
def comm_gloo():
    """The peer: Gloo's all-reduce of 576 FP32 over its plain TCP, on loopback."""
    return told("us", build_file("bench_comm"), "gloo", "576")


@benchmark("comm.step_round_trip_us", "us", runs=5, peer="ZeroMQ over ipc 85")
def comm_steps():
    """A step to a rank of the head's host and its answer back, both asleep when it comes."""
    return told("us", build_file("bench_comm"), "steps")


for what, aim in (("decode", 1.15), ("prompt", 1.75)):
    def tp2(what=what):
        return told(f"{what}_speedup", build_file("bench_tp"), MODEL)
    tp2.__doc__ = f"Two tensor ranks of one thread each against one rank on one core, {what}, runner alone."
    benchmark(f"runtime.tp2_{what}_speedup", "x", runs=3, aim=aim, peer="llama.cpp over RPC is slower than alone")(tp2)


recoveries = []


def recover():
    """One campaign of ranks killed singly serves both figures."""
    if not recoveries:
        args = streams.parser().parse_args(["--seconds", "12", "--kinds", "rank", "--two", "0", "--seed", "1"])
        recoveries.append(streams.run(args))
    return recoveries[-1]


@benchmark("recovery.longest_silence_ms", "ms", runs=1, aim=300, limit=2500,
           peer="vLLM 99,000 to come back, llama.cpp aborts")
def recovery_silence():
    """Longest silence of any of 16 open streams while a rank is killed each second, 2 nodes x 1 rank."""
    return recover()["longest_ms"]


@benchmark("recovery.broken_streams", "streams", runs=1, aim=0, limit=0, peer="vLLM and llama.cpp: all that are open")
def recovery_broken():
    """Streams of the same campaign that ended early or with other bytes than an undisturbed run."""
    return recover()["broken"]


class warm_site:
    """One site for all runs of a benchmark, whose weight caches were filled by a first deployment."""
    site = None

    def __enter__(self):
        if warm_site.site is None:
            warm_site.site = Site("bench")
            warm_site.site.start_daemon()
            warm_site.site.bp("submit", warm_site.site.recipe("warm"), "--wait")
            warm_site.site.bp("stop", "warm")
        return warm_site.site

    def __exit__(self, kind, value, traceback):
        return False


engine.register(benchmark)


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--runs", type=int, help="measurements of each benchmark")
    parser.add_argument("--list", action="store_true", help="names and what they measure")
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    if args.list:
        for name, b in BENCHMARKS.items():
            print(f"{name:28} {' '.join(b['function'].__doc__.split())}")
        return 0
    missed = 0
    if not args.json:
        print(f"{'name':28} {'median':>10} {'unit':6} {'runs':>4} {'min':>10} {'max':>10} "
              f"{'aim':>8} {'limit':>8}  peer")
    try:
        for name in args.names or BENCHMARKS:
            b = BENCHMARKS[name]
            # A measurement is a number, or a number and a note on how it came about.
            made = [m if isinstance(m, tuple) else (m, "")
                    for m in (b["function"]() for _ in range(args.runs or b["runs"]))]
            values = [v for v, _ in made]
            note = made[-1][1]
            value = statistics.median(values)
            if b["limit"] is not None and value > b["limit"]:
                missed += 1
            if args.json:
                print(json.dumps(dict(name=name, value=float(f"{value:.5g}"), unit=b["unit"], runs=len(values),
                                      aim=b["aim"], limit=b["limit"], peer=b["peer"],
                                      **({"note": note} if note else {}))), flush=True)
            else:
                print(f"{name:28} {value:10.5g} {b['unit']:6} {len(values):4} {min(values):10.5g} {max(values):10.5g} "
                      f"{b['aim'] or '-':>8} {b['limit'] or '-':>8}  {b['peer']}"
                      f"{chr(10) + ' ' * 4 + note if note else ''}", flush=True)
    except Failure as e:
        print(f"benchmark {name}: {e}", file=sys.stderr)
        return 1
    finally:
        serve.Served.close()
        if warm_site.site:
            warm_site.site.close()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
