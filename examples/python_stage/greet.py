"""A stage in Python: writes a greeting into a file, and removes it when the run is torn down.

Put it into the daemon's plugin folder, with greeting.workflow.json beside it. Options: folder.
"""
import os

from bp_stage import Stage, StageError, stage


@stage("greet", version=1)
class Greet(Stage):
    def run(self, ctx):
        folder = ctx.option("folder")
        if not os.path.isabs(folder):
            raise StageError("BP_INVALID_ARGUMENT", f'option "folder" is {folder!r}',
                             "Give the stage an absolute folder in its workflow")
        path = os.path.join(folder, ctx.run_id + ".txt")
        ctx.save_handle(path)  # the handle first: whatever happens after it, destroy() knows what to remove
        os.makedirs(folder, exist_ok=True)
        with open(path + ".new", "w") as f:
            f.write("hello " + ctx.input("name").decode() + "\n")
        os.replace(path + ".new", path)
        ctx.progress(1, 1, "files")
        ctx.log("info", f"greeted in {path}")
        return ctx.succeed({"file": path})

    def destroy(self, ctx):
        try:
            if ctx.handle:
                os.unlink(ctx.handle.decode())
        except FileNotFoundError:
            pass
        return ctx.succeed()
