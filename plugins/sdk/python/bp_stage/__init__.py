"""Stages in Python, over the same protocol as those in C++ (proto/bp/v1/stage.proto).

    from bp_stage import Stage, stage

    @stage("hello", version=1)
    class Hello(Stage):
        def run(self, ctx):
            return ctx.succeed("hello " + ctx.input("name").decode())

The file is named after the stage's plugin (hello.py) and lies in the daemon's plugin folder. run() must
bring about what the stage stands for, level-triggered: look at what is, do what is missing. It is called again
after any crash with the same effect key, the last handle and checkpoint. Exceptions become failed attempts.
"""
import threading
import time

from bp.v1 import stage_pb2 as pb

CHECKPOINT_BYTES = 256 << 10  # limits::kCheckpointBytes
OUTPUT_BYTES = 1 << 20        # limits::kStageOutputBytes

registered = []               # (name, version, class): exactly one per file


def stage(name, version):
    def register(cls):
        registered.append((name, version, cls))
        return cls
    return register


class StageError(Exception):
    """Fails the attempt with a code of engine/base/error_codes.def; the code says whether it is tried again."""

    def __init__(self, code, message, remedy=""):
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


class Stage:
    def run(self, ctx):
        raise NotImplementedError

    def destroy(self, ctx):
        """Undoes run(); success means confirmed gone. Default: nothing to undo."""
        return ctx.succeed()


def _bytes(value):
    return value.encode() if isinstance(value, str) else bytes(value)


class StageContext:
    """What a running attempt knows and may do. Any thread, until run() returns."""

    def __init__(self, host, ref, attempt, common_options):
        self._host, self.ref, self.attempt = host, ref, attempt
        self._common = common_options
        self._handle = attempt.handle
        self._cancelled = threading.Event()
        self._notices = []
        self._calls, self._secrets = {}, {}
        self._changed = threading.Condition()

    effect_key = property(lambda self: self.attempt.effect_key)
    run_id = property(lambda self: self.ref.run_id)
    handle = property(lambda self: self._handle)
    checkpoint = property(lambda self: self.attempt.checkpoint)

    def input(self, name):
        """Bytes of an input; empty when there is none."""
        return self.attempt.inputs.get(name, b"")

    def option(self, name, otherwise=""):
        if name in self.attempt.options:
            return self.attempt.options[name]
        return self._common.get(name, otherwise)

    def secret(self, name):
        if name not in self.attempt.secrets:
            raise StageError("BP_NOT_FOUND", f"stage {self.ref.stage} has no secret {name!r}",
                             "Submit it with the run, and let the stage's definition say needs_secrets")
        return self.attempt.secrets[name]

    def progress(self, done, total, unit, note=""):
        self._beat(progress=dict(done=done, total=total, unit=unit, note=note))

    def save_checkpoint(self, value):
        self._beat(checkpoint=self._bounded(value, CHECKPOINT_BYTES, "checkpoint"))

    def save_handle(self, value):
        """Names what exists outside, so that destroy() finds it after a crash: save BEFORE creating."""
        self._handle = self._bounded(value, CHECKPOINT_BYTES, "handle")
        self._beat(handle=self._handle)

    def ready(self, outputs):
        self._beat(ready=True, outputs={k: _bytes(v) for k, v in outputs.items()}, handle=self._handle)

    def log(self, level, text):
        self._host.say(self, log=dict(level=level, text=text[:16 << 10], wall_ms=int(time.time() * 1000)))

    def cancelled(self):
        return self._cancelled.is_set()

    def sleep(self, seconds):
        """False as soon as the attempt is cancelled."""
        return not self._cancelled.wait(seconds)

    def put_secret(self, name, value, timeout_s=30):
        with self._changed:
            self._secrets[name] = False
            self._host.say(self, secret_put=dict(name=name, value=_bytes(value)))
            stored = self._changed.wait_for(lambda: self._secrets[name], timeout_s)
            del self._secrets[name]
        if not stored:
            raise StageError("BP_DEADLINE_EXCEEDED", f"the daemon did not store secret {name!r} in time")

    def node_call(self, node_id, command, timeout_s):
        """Sends a bp.v1.NodeCommand to a node of this run; the node's own error becomes a StageError."""
        command.run_id = self.ref.run_id
        command.epoch.CopyFrom(self.ref.epoch)
        call_id = self._host.next_call_id()
        command.call_id = call_id
        with self._changed:
            self._calls[call_id] = None
            self._host.say(self, node_call=dict(call_id=call_id, node_id=node_id, command=command,
                                                deadline_ms=int(timeout_s * 1000)))
            self._changed.wait_for(lambda: self._calls[call_id] is not None or self.cancelled(), timeout_s + 0.25)
            reply = self._calls.pop(call_id)
        if reply is None:
            code = "BP_CANCELLED" if self.cancelled() else "BP_DEADLINE_EXCEEDED"
            raise StageError(code, f"node {node_id} did not answer within {timeout_s} s")
        if reply.HasField("error"):
            raise StageError(reply.error.code, f"node {node_id}: {reply.error.message}", reply.error.remedy)
        return reply

    def next_notice(self, timeout_s):
        """The oldest unread bp.v1.NodeNotice, or None."""
        with self._changed:
            self._changed.wait_for(lambda: self._notices or self.cancelled(), timeout_s)
            return self._notices.pop(0) if self._notices else None

    def succeed(self, outputs=None):
        """Outputs by name; a single str or bytes is output "value"."""
        if isinstance(outputs, (str, bytes)):
            outputs = {"value": outputs}
        result = pb.AttemptResult(outcome=pb.AttemptResult.SUCCEEDED, handle=self._handle)
        for name, value in (outputs or {}).items():
            result.outputs[name] = self._bounded(value, OUTPUT_BYTES, f"output {name!r}")
        return result

    def fail(self, code, message, remedy=""):
        outcome = pb.AttemptResult.CANCELLED if code == "BP_CANCELLED" else pb.AttemptResult.FAILED
        return pb.AttemptResult(outcome=outcome, handle=self._handle,
                                error=dict(code=code, message=message, remedy=remedy))

    def cancelled_result(self):
        return self.fail("BP_CANCELLED", f"stage {self.ref.stage} was cancelled")

    def rewind(self, to_stage, code, message):
        result = self.fail(code, message)
        result.rewind_to_stage = to_stage
        return result

    def needs_human(self, code, message, survivors):
        result = self.fail(code, message)
        result.outcome = pb.AttemptResult.NEEDS_HUMAN
        result.survivors.extend(survivors)
        return result

    def _bounded(self, value, limit, what):
        value = _bytes(value)
        if len(value) > limit:
            raise StageError("BP_TOO_LARGE", f"{what} has {len(value)} bytes, at most {limit} are kept")
        return value

    def _beat(self, **fields):
        self._host.say(self, beat=fields)

    # From the host's loop.
    def _take(self, message):
        with self._changed:
            body = message.WhichOneof("body")
            if body == "cancel":
                self._cancelled.set()
            elif body == "node_reply" and message.node_reply.call_id in self._calls:
                self._calls[message.node_reply.call_id] = message.node_reply.reply
            elif body == "node_notice":
                self._notices = (self._notices + [message.node_notice])[-10_000:]
            elif body == "secret_put_ack" and message.secret_put_ack.name in self._secrets:
                self._secrets[message.secret_put_ack.name] = True
            self._changed.notify_all()
