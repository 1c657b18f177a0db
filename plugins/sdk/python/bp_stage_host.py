#!/usr/bin/python3
"""bp-stage-host for stages in Python: the same options, exit statuses and protocol (engine/stage_host).

Usage: bp_stage_host.py --plugin FILE.py --endpoint ipc://... --host-id ID [--shared --slots N]
"""
import argparse
import importlib.util
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import zmq  # noqa: E402
import bp_stage  # noqa: E402
from bp.v1 import stage_pb2 as pb  # noqa: E402

DONE, PLUGIN_LOAD, NO_ATTEMPT, DAEMON_AWAY = 0, 4, 5, 6
QUIET_S, RESULT_S, BEAT_S, AWAY_CANCEL_S = 0.3, 0.5, 0.5, 10
MESSAGE_BYTES = 16 << 20  # limits::kMessageBytes
THREADS_MAX = 64          # of a shared host
LOG_LINES_MAX = 2000      # of an attempt that wait to be sent


def load(path):
    """(name, version, class) of the one stage that the file registers."""
    if not os.path.isabs(path):
        raise ImportError(f"plugin {path} is not named by an absolute path")
    spec = importlib.util.spec_from_file_location("bp_stage_plugin", path)
    if spec is None:
        raise ImportError(f"plugin {path} is no Python file")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    if len(bp_stage.registered) != 1:
        raise ImportError(f"plugin {path} registers {len(bp_stage.registered)} stages, expected 1 (@stage)")
    return bp_stage.registered[0]


def process_of_host():
    """Pid and start time of the supervisor, or of this process."""
    given = os.environ.get("BP_HOST_PROCESS", "").split()
    if len(given) == 2:
        return int(given[0]), int(given[1])
    with open("/proc/self/stat") as f:
        return os.getpid(), int(f.read().rpartition(")")[2].split()[19])


class Attempt:
    def __init__(self, ctx):
        self.ctx = ctx
        self.begun = self.said = time.monotonic()
        self.result, self.sequence = None, 0
        self.known = {}  # beat fields, merged
        self.acknowledged = False


class Host:
    def __init__(self, args):
        self.args = args
        self.lock = threading.Lock()
        self.outgoing = []          # (attempt, StageMessage); guarded by lock
        self.log_left = args.log_bytes or None
        self.log_lines = 0
        self.done = []              # attempts with a result; guarded by lock
        self.attempts = {}          # key -> Attempt; a few acknowledged ones stay as a memory of doubles
        self.common = {"work_dir": os.environ["BP_WORK_DIR"]} if "BP_WORK_DIR" in os.environ else {}
        self.sequence = 0
        self.call_id = secrets.randbits(48) << 12
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.error = self.stage = None
        try:
            self.stage = load(args.plugin)
        except BaseException as e:  # a plugin may do anything while it loads, sys.exit included
            self.error = f"plugin {args.plugin} cannot be loaded: {type(e).__name__}: {e}"
            print(traceback.format_exc(), file=sys.stderr)
        context = zmq.Context(io_threads=1)
        self.socket = context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 200), (zmq.MAXMSGSIZE, MESSAGE_BYTES), (zmq.IMMEDIATE, 1),
                              (zmq.RECONNECT_IVL, 20), (zmq.RECONNECT_IVL_MAX, 1000)):
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.ROUTING_ID, args.host_id.encode())
        self.socket.connect(args.endpoint)
        self.pool = ThreadPoolExecutor(min(args.slots, THREADS_MAX) if args.shared else 1)
        self.started = time.monotonic()
        self.heard = self.hello = self.sent = self.beaten = 0.0
        self.connected = False

    # Any thread.
    def say(self, ctx, **body):
        attempt = ctx.attempt_of_host
        with self.lock:
            if "log" in body and not self._take_log(body["log"]["text"]):
                return
            if "beat" in body:
                attempt.known.update(body["beat"])
            self.outgoing.append((attempt, pb.StageMessage(**body)))
        os.eventfd_write(self.wake, 1)

    def _take_log(self, text):
        if self.log_left is not None:
            self.log_left -= len(text)
            if self.log_left < 0:
                return False
        self.log_lines += 1
        return self.log_lines <= LOG_LINES_MAX

    def next_call_id(self):
        with self.lock:
            self.call_id += 1
            return self.call_id

    def work(self, attempt):
        ctx, (name, _, cls) = attempt.ctx, self.stage
        try:
            stage = cls()
            destroys = ctx.attempt.mode == pb.ATTEMPT_MODE_DESTROY
            result = stage.destroy(ctx) if destroys else stage.run(ctx)
            if not isinstance(result, pb.AttemptResult) or not result.outcome:
                result = ctx.fail("BP_PLUGIN_CRASH", f"plugin {name} returned {type(result).__name__}, no result")
        except bp_stage.StageError as e:
            result = ctx.fail(e.code, e.message, e.remedy)
        except BaseException as e:
            where = traceback.extract_tb(e.__traceback__)[-1]
            result = ctx.fail("BP_PLUGIN_CRASH", f"plugin {name} let an exception escape: {type(e).__name__}: {e} "
                              f"({os.path.basename(where.filename)}:{where.lineno})")
        with self.lock:
            attempt.result = result
            self.done.append(attempt)
        os.eventfd_write(self.wake, 1)

    # The loop's thread.
    def send(self, messages):
        batch = pb.StageBatch()
        for attempt, message in messages:
            if attempt is not None:
                message.ref.CopyFrom(attempt.ctx.ref)
            if not message.sequence:
                self.sequence += 1
                message.sequence = self.sequence
            batch.messages.append(message)
        try:
            self.socket.send(batch.SerializeToString(), zmq.DONTWAIT)
            self.connected = True
        except zmq.Again:
            self.connected = False
        self.sent = time.monotonic()

    def held(self):
        return [a for a in self.attempts.values() if not a.acknowledged]

    def say_hello(self):
        pid, ticks = process_of_host()
        with open("/proc/sys/kernel/random/boot_id") as f:
            boot = f.read().strip()
        hello = pb.HostHello(host_id=self.args.host_id, protocol=1, shared=self.args.shared,
                             slots=self.args.slots if self.args.shared else 0,
                             process=dict(pid=pid, start_ticks=ticks, boot_id=boot))
        if self.error:
            hello.load_error.code, hello.load_error.message = "BP_PLUGIN_LOAD", self.error
        else:
            hello.plugin, hello.plugin_version, hello.abi_version = self.stage[0], self.stage[1], 1
        held = self.held()
        if self.args.shared:
            hello.holds.extend(a.ctx.ref for a in held)
        self.hello = time.monotonic()
        # An own host says by its ref that it has its attempt already.
        self.send([(held[0] if held and not self.args.shared else None, pb.StageMessage(hello=hello))])

    def say_result(self, attempt):
        attempt.said = time.monotonic()
        if not attempt.sequence:
            self.sequence += 1
            attempt.sequence = self.sequence
        return attempt, pb.StageMessage(result=attempt.result, sequence=attempt.sequence)

    @staticmethod
    def key(ref):
        return ref.run_id, ref.stage, ref.map_index, ref.epoch.incarnation, ref.epoch.counter

    def take(self, message):
        body, key = message.WhichOneof("body"), self.key(message.ref)
        attempt = self.attempts.get(key)
        if body == "hello_ack":
            self.common.update(message.hello_ack.options)
            self.repeat()
        elif body == "run":
            if attempt is None and not self.error and (self.args.shared or not self.attempts):
                self.begin(key, message)
        elif attempt is not None and body == "result_ack":
            self.acknowledge(attempt)
        elif attempt is not None:
            attempt.ctx._take(message)

    def begin(self, key, message):
        ref, run = type(message.ref)(), type(message.run)()
        ref.CopyFrom(message.ref)
        run.CopyFrom(message.run)
        attempt = Attempt(bp_stage.StageContext(self, ref, run, self.common))
        attempt.ctx.attempt_of_host = attempt
        self.attempts[key] = attempt
        self.pool.submit(self.work, attempt)

    def acknowledge(self, attempt):
        if attempt.result is None or attempt.acknowledged:
            return
        attempt.acknowledged = True
        remembered = [k for k, a in self.attempts.items() if a.acknowledged]
        for key in remembered[:-1024]:
            del self.attempts[key]

    def repeat(self):
        """The daemon may have lost what it was told."""
        messages = []
        for a in self.held():
            if a.result is not None and a.sequence:
                messages.append(self.say_result(a))
            elif a.known:
                messages.append((a, pb.StageMessage(beat=a.known)))
        if messages:
            self.send(messages)

    def turn(self, now):
        with self.lock:
            messages, self.outgoing = self.outgoing, []
            done, self.done = self.done, []
            self.log_lines = 0
        messages += [self.say_result(a) for a in done]
        messages += [self.say_result(a) for a in self.held() if a.sequence and now - a.said > RESULT_S]
        if now - self.beaten >= BEAT_S:
            self.beaten = now
            for a in self.held():
                if a.result is None and now - a.begun >= BEAT_S:
                    progress = {k: v for k, v in a.known.items() if k == "progress"}
                    messages.append((a, pb.StageMessage(beat=progress)))
        was_connected = self.connected
        if messages or not self.connected or (self.args.shared and now - self.sent >= BEAT_S):
            self.send(messages)
        quiet = now - max(self.heard, self.hello, self.started)
        if self.connected and (not was_connected or quiet > QUIET_S):
            self.say_hello()

    def status(self, now):
        """Exit status once there is nothing left to do, else None."""
        held = self.held()
        if self.error and self.heard:
            return PLUGIN_LOAD
        if not self.args.shared and self.attempts and not held:
            return DONE
        if not held and now - max([self.started] + [a.said for a in self.attempts.values()]) > \
                self.args.idle_limit_ms / 1000:
            return NO_ATTEMPT
        away = now - max(self.heard, self.started) - self.args.away_limit_ms / 1000
        if away > 0:
            for a in held:
                a.ctx._take(pb.StageMessage(cancel=dict(deadline_ms=AWAY_CANCEL_S * 1000)))
        return DAEMON_AWAY if away > AWAY_CANCEL_S else None

    def run(self):
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.wake, zmq.POLLIN)
        while True:
            now = time.monotonic()
            self.turn(now)
            ready = dict(poller.poll(100 if self.connected else 5))
            if self.wake in ready:
                os.eventfd_read(self.wake)
            while self.socket.poll(0):
                self.heard = time.monotonic()
                batch = pb.StageBatch()
                try:
                    batch.ParseFromString(self.socket.recv())
                except Exception as e:
                    print(f"message.refused why={e}", file=sys.stderr)
                    continue
                for message in batch.messages:
                    self.take(message)
                acked = set(batch.result_acks)
                for a in self.held() if acked else []:
                    if a.sequence in acked:
                        self.acknowledge(a)
            status = self.status(time.monotonic())
            if status is not None:
                return status


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--host-id", required=True)
    parser.add_argument("--run-dir")
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--slots", type=int, default=512)
    parser.add_argument("--away-limit-ms", type=int, default=3_600_000)
    parser.add_argument("--idle-limit-ms", type=int, default=60_000)
    parser.add_argument("--log-bytes", type=int, default=0)
    parser.add_argument("--log-level", default="info")
    args = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if args.run_dir:
        os.chdir(args.run_dir)
    status = Host(args).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # stages that ignore their cancel keep nobody


if __name__ == "__main__":
    main()
