#!/usr/bin/env python3
"""Open streams while processes die: 16 clients stream completions from one deployment, ranks and nodes are killed
beneath them, and every answer must have the bytes of an undisturbed run.

usage: streams.py [--seconds N | --minutes N] [--streams 16] [--nodes 2] [--gpus 1] [--kinds rank,node,stop]
                  [--rank-every 1] [--node-every 10] [--seed S] [--json]

Kinds: `rank` kill -9 of one rank, sometimes of two at once; `stop` SIGSTOP of one; `node` kill -9 of an agent and
all its ranks at once. A silence is the time between two pieces of one open stream; it is put to the account of the
last kill before it ended. Exit status 1 when a stream broke or its answer differed.
"""
import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from harness import Failure, Site, check, wait_until  # noqa: E402

TOPICS = ["rivers", "the moon", "bread", "old ships", "a small town", "winter", "trains", "honey bees", "chess",
          "mountains", "a lighthouse", "the sea", "paper", "music", "clocks", "gardens"]


class Broken(Exception):
    """A stream that did not end as it should."""


class Streams:
    """Clients that stream completions one after the other, each from its own list of prompts."""

    def __init__(self, endpoint, model, count, tokens):
        url = urllib.parse.urlsplit(endpoint)
        self.host, self.port, self.model, self.tokens = url.hostname, url.port, model, tokens
        self.count = count
        self.expected = {}      # prompt number -> text
        self.kills = []         # (monotonic, kind)
        self.silences = []      # (seconds, kind of the last kill before its end or None)
        self.broken = []        # words
        self.pieces = 0

    def prompt(self, number):
        return f"Write a long story about {TOPICS[number % len(TOPICS)]} and the number {number}."

    async def one(self, number):
        """Streams one completion; its text. Every second prompt is sampled."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            body = json.dumps({"model": self.model, "prompt": self.prompt(number), "stream": True,
                               "max_tokens": self.tokens, "temperature": 0.8 if number % 2 else 0,
                               "seed": 1000 + number, "ignore_eos": True}).encode()
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                         b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            text, last, finished = [], None, False
            while True:
                line = await asyncio.wait_for(reader.readline(), 60)
                if not line:
                    break
                if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                    raise Broken(f"{line.decode().strip()}: {(await reader.read(300)).decode(errors='replace')}")
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    finished = True
                    break
                now = time.monotonic()
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise Broken(str(chunk["error"])[:300])
                text.append(chunk["choices"][0].get("text", ""))
                self.pieces += 1
                if last is not None:
                    self.silences.append((now - last, last, now))
                last = now
            if not finished:
                raise Broken("the stream ended without [DONE]")
            return "".join(text)
        finally:
            writer.close()

    async def learn(self):
        """The undisturbed run: every prompt once, all clients at once. Pieces a second."""
        begin = time.monotonic()
        texts = await asyncio.gather(*(self.one(n) for n in range(self.count)))
        self.expected = dict(enumerate(texts))
        return self.pieces / (time.monotonic() - begin)

    async def client(self, number, until):
        while time.monotonic() < until:
            try:
                text = await self.one(number)
                if text != self.expected[number]:
                    at = next((i for i, (a, b) in enumerate(zip(text, self.expected[number])) if a != b), -1)
                    self.broken.append(f"prompt {number}: another text from byte {at} on: "
                                       f"{text[max(at, 0):max(at, 0) + 40]!r} for "
                                       f"{self.expected[number][max(at, 0):max(at, 0) + 40]!r}")
            except (Broken, OSError, asyncio.TimeoutError, ValueError) as e:
                self.broken.append(f"prompt {number}: {type(e).__name__} {e}")
                await asyncio.sleep(0.2)


class Killer:
    """Kills on a schedule, and knows what it did."""

    def __init__(self, site, args, streams):
        self.site, self.args, self.streams = site, args, streams
        self.rng = random.Random(args.seed)
        self.next = {"rank": args.rank_every, "stop": args.stop_every, "node": args.node_every}

    def hit(self, kind):
        ranks = self.site.processes("rank")
        if not ranks:
            return None
        if kind == "node":
            agents = self.site.processes("node")
            if not agents:
                return None
            agent = self.rng.choice(agents)
            name = agent.args[agent.args.index("--node-id") + 1]
            pids = [agent.pid] + [r.pid for r in ranks if r.env.get("BP_NODE_ID") == name]
        else:
            two = kind == "rank" and len(ranks) > 1 and self.rng.random() < self.args.two
            pids = [r.pid for r in self.rng.sample(ranks, 2 if two else 1)]
            kind = "two ranks" if two else kind
        at = time.monotonic()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
            except ProcessLookupError:
                pass
        return at, kind

    async def run(self, until):
        begin = time.monotonic()
        due = {k: begin + self.next[k] for k in self.args.kinds.split(",")}
        while True:
            kind = min(due, key=due.get)
            await asyncio.sleep(max(0, due[kind] - time.monotonic()))
            if time.monotonic() > until - 1:   # the last ones must be seen to heal
                return
            due[kind] += self.next[kind] * self.rng.uniform(0.8, 1.2)
            loop = asyncio.get_running_loop()
            hit = await loop.run_in_executor(None, self.hit, kind)
            if hit:
                self.streams.kills.append(hit)


def account(streams):
    """{kind: (count, longest silence in ms)}; kind "none" is what no kill can have caused."""
    table = {}
    for at, kind in streams.kills:
        count, longest = table.get(kind, (0, 0.0))
        table[kind] = (count + 1, longest)
    for seconds, begin, end in streams.silences:
        cause = [k for at, k in streams.kills if begin - 0.05 <= at <= end]
        # Of several the one that heals slowest is to blame.
        order = ["node", "stop", "two ranks", "rank"]
        kind = min(cause, key=order.index) if cause else "none"
        count, longest = table.get(kind, (0, 0.0))
        table[kind] = (count, max(longest, seconds * 1000))
    return table


async def campaign(site, args, view):
    streams = Streams(view["endpoint"], view["model"], args.streams, args.tokens)
    await streams.learn()   # warms every kernel and page
    undisturbed = 0.0
    streams.pieces, streams.silences = 0, []
    undisturbed = await streams.learn()
    calm = max(s[0] for s in streams.silences) * 1000
    streams.pieces, streams.silences = 0, []
    begin = time.monotonic()
    until = begin + args.seconds
    killer = Killer(site, args, streams)
    await asyncio.gather(killer.run(until), *(streams.client(n, until) for n in range(args.streams)))
    rate = streams.pieces / (time.monotonic() - begin)
    return streams, undisturbed, rate, calm


def run(args):
    """Returns the figures of one campaign over a deployment of its own."""
    with Site("streams") as site:
        site.start_daemon()
        site.bp("submit", site.recipe("s", nodes=args.nodes, gpus=args.gpus), "--wait")
        view = site.show("s")
        streams, undisturbed, rate, calm = asyncio.run(campaign(site, args, view))
        if args.keep_logs:
            os.system(f"cp -r {site.folder} {args.keep_logs}")
        wait_until("the deployment to serve again", lambda: site.whole_view("s"), 60)
        site.bp("stop", "s")
        check(not site.leftovers(), f"left over: {site.leftovers()}")
    table = account(streams)
    kinds = {k: v for k, v in table.items() if k != "none"}
    return dict(broken=len(streams.broken), reasons=streams.broken[:5], kills=len(streams.kills), table=table,
                longest_ms=max([v[1] for v in kinds.values()] or [0.0]), calm_ms=calm,
                share=rate / undisturbed if undisturbed else 0.0, undisturbed=undisturbed, rate=rate)


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--minutes", type=float, default=None)
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--tokens", type=int, default=96)
    p.add_argument("--nodes", type=int, default=2)
    p.add_argument("--gpus", type=int, default=1)
    p.add_argument("--kinds", default="rank,node")
    p.add_argument("--rank-every", type=float, default=1.0)
    p.add_argument("--stop-every", type=float, default=7.0)
    p.add_argument("--node-every", type=float, default=10.0)
    p.add_argument("--two", type=float, default=0.2, help="share of rank kills that take two at once")
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--json", action="store_true")
    p.add_argument("--keep-logs", default="", help="folder to copy the site's files to before it is removed")
    return p


def main():
    args = parser().parse_args()
    if args.minutes is not None:
        args.seconds = args.minutes * 60
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {args.seed}, {args.streams} streams, {args.nodes} x {args.gpus} ranks, {args.seconds:.0f} s",
          flush=True)
    try:
        r = run(args)
    except Failure as e:
        print(f"FAIL {e}")
        return 1
    if args.json:
        print(json.dumps(r))
    print(f"{'killed':12} {'count':>6} {'longest silence':>16}")
    for kind, (count, longest) in sorted(r["table"].items()):
        print(f"{kind:12} {count:6} {longest:13.0f} ms")
    print(f"broken streams {r['broken']}; throughput {r['rate']:.0f} of {r['undisturbed']:.0f} pieces/s "
          f"({100 * r['share']:.0f} %); longest silence undisturbed {r['calm_ms']:.0f} ms")
    for reason in r["reasons"]:
        print(f"  {reason}")
    return 1 if r["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
