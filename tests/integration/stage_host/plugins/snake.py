"""A stage that does what its option "do" says: for tests of bp_stage_host.py."""
import os
import signal
import time

from bp.v1 import node_pb2
from bp_stage import Stage, StageError, stage


@stage("snake", version=2)
class Snake(Stage):
    def run(self, ctx):
        what = ctx.option("do")
        if what == "hello":
            return ctx.succeed("hello " + ctx.input("name").decode())
        if what == "option":
            return ctx.succeed(ctx.option("common", "none"))
        if what == "throw":
            raise RuntimeError("thrown on purpose")
        if what == "code":
            raise StageError("BP_DISK_FULL", "no room")
        if what == "garbage":
            return "no result"
        if what == "big":
            return ctx.succeed("x" * (2 << 20))
        if what == "exit":
            os._exit(3)
        if what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(5)
        if what == "call":
            ctx.log("info", "calling")
            ctx.put_secret("s", "value")
            command = node_pb2.NodeCommand()
            command.list.SetInParent()
            return ctx.succeed(str(len(ctx.node_call("n1-0", command, 20).list.processes)))
        if what == "wait":
            ctx.save_handle("thing-1")
            ctx.save_checkpoint("half")
            ctx.progress(1, 2, "steps")
            while ctx.sleep(1):
                pass
            return ctx.cancelled_result()
        raise StageError("BP_INVALID_ARGUMENT", f"unknown do {what!r}")
