#!/usr/bin/env python3
"""What must not bring a daemon or a serving deployment down: plugins that misbehave, garbage on every socket,
full disks, model files that lie."""
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time

from harness import BUILD, ROOT, Site, chat, check, main, wait_until

sys.path.insert(0, os.path.join(ROOT, "tests", "fuzz"))
import make_corpus  # noqa: E402

CAPITAL = "What is the capital of France?"
CANCEL_S = 10  # an attempt that ignores its cancel is killed then
random.seed(7)


def deploy(site, name):
    site.bp("submit", site.recipe(name), "--wait", timeout=90)
    return site.show(name)


def identities(view):
    return sorted((p["role"], p["identity"]["pid"], p["identity"]["start_ticks"]) for p in view["processes"])


def still_serves(site, name, before):
    """The same processes answer as ever."""
    check(site.daemon.poll() is None, "the daemon has ended")
    view = site.show(name)
    check(view["state"] == "serving", f"{name} is {view['state']}")
    check(identities(view) == identities(before), f"processes of {name}: {identities(before)} -> {identities(view)}")
    answer = chat(view["endpoint"], CAPITAL)
    check("Paris" in answer, f"answer {answer!r}")


# -- plugins ------------------------------------------------------------------------------------------------

def plugin_folder(site):
    """The stages of this build and, beside them, plugins that misbehave, each in a workflow of its own."""
    folder = os.path.join(site.folder, "plugins")
    os.makedirs(folder)
    for f in os.listdir(os.path.join(BUILD, "plugins")):
        os.symlink(os.path.join(BUILD, "plugins", f), os.path.join(folder, f))
    for f in ("probe", "other_abi"):
        source = os.path.join(BUILD, "tests", "plugins", f + ".so")
        check(os.path.isfile(source), f"{source} is missing: build test_plugin_{f}")
        os.symlink(source, os.path.join(folder, f + ".so"))
    with open(os.path.join(folder, "no_elf.so"), "w") as f:
        f.write("this is no ELF file\n" * 500)
    with open(os.path.join(BUILD, "tests", "plugins", "probe.so"), "rb") as whole, \
            open(os.path.join(folder, "torn.so"), "wb") as torn:
        torn.write(whole.read()[:5000])
    for name, plugin, what in (("crash", "probe", "crash"), ("hang", "probe", "hang"), ("throw", "probe", "throw"),
                               ("abi", "other_abi", ""), ("no-elf", "no_elf", ""), ("torn", "torn", ""),
                               ("missing", "nowhere", "")):
        stage = {"name": "first", "plugin": plugin, "options": {"do": what}, "heartbeat_timeout_ms": 60000,
                 "retry": {"max_attempts": 2, "first_delay_ms": 50, "multiplier": 1.0, "max_delay_ms": 50}}
        with open(os.path.join(folder, name + ".workflow.json"), "w") as f:
            json.dump({"name": name, "version": 1, "stages": [stage]}, f)
    return folder


def test_plugins():
    """Each kind of bad plugin ends its own deployment with a word about it, and touches nothing else."""
    with Site("plugins") as site:
        site.daemon_args = ["--plugin-dir", plugin_folder(site)]
        site.start_daemon()
        before = deploy(site, "bystander")
        for workflow, words in (("crash", ("probe", "signal 11")), ("throw", ("probe", "thrown on purpose")),
                                ("abi", ("other_abi", "ABI version 9")), ("no-elf", ("no_elf", "invalid ELF header")),
                                ("torn", ("torn", "Bus error")), ("missing", ("nowhere", "BP_PLUGIN_LOAD"))):
            name = "bad-" + workflow
            r = site.bp("submit", site.recipe(name), "--workflow", workflow, "--wait", ok=1, timeout=30)
            for word in words:
                check(word in r.stderr, f"{workflow}: {word!r} is missing from:\n{r.stderr}")
            check(site.show(name)["state"] == "failed", f"{workflow}: {site.show(name)['state']}")
        r = site.bp("submit", site.recipe("bad-hang"), "--workflow", "hang")
        wait_until("the stage to run", lambda: site.show("bad-hang")["stages"][0]["state"] == "running", 10)
        hosts = {p.pid for p in site.processes("stage-host")}
        begin = time.monotonic()
        site.bp("cancel", "bad-hang", timeout=CANCEL_S + 10)
        site.wait_state("bad-hang", "cancelled", CANCEL_S + 5)
        took = time.monotonic() - begin
        check(took < CANCEL_S + 3, f"the hanging stage was given {took:.1f} s, {CANCEL_S} expected")
        check(len(hosts) == 2, f"stage hosts {hosts}: the bystander's and the hanging one expected")
        check(len(site.processes("stage-host")) == 1, "the hanging stage's host is gone")
        still_serves(site, "bystander", before)
        site.bp("stop", "bystander")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


# -- sockets ------------------------------------------------------------------------------------------------

GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\0"


def zmtp_greeting(mechanism=b"NULL"):
    return GREETING + mechanism.ljust(20, b"\0") + b"\0" * 32


def zmtp_frame(body, flags=0):
    """A frame of ZMTP 3 (rfc.zeromq.org/spec/23)."""
    if len(body) < 256 and not flags & 2:
        return bytes([flags, len(body)]) + body
    return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body


def zmtp_ready(kind=b"DEALER", identity=b""):
    def entry(key, value):
        return bytes([len(key)]) + key + struct.pack(">I", len(value)) + value
    return zmtp_frame(b"\x05READY" + entry(b"Socket-Type", kind) + entry(b"Identity", identity), 4)


def noise(n):
    return random.randbytes(n)


def payloads():
    """What is sent, one connection each: parts, each sent when the one before was answered."""
    for data in raw_payloads():
        yield (data,)
    for data in framed_payloads():
        yield (zmtp_greeting(), zmtp_ready() + data)


def framed_payloads():
    yield b"\x02" + struct.pack(">Q", 2**62)
    yield b"\x02" + struct.pack(">Q", 2**63 + 5) + noise(100)
    yield b"\x00\x80" + noise(20)  # ends in the middle of a frame
    yield zmtp_frame(noise(300 << 10))
    for size in (0, 1, 7, 40, 200, 255, 5_000):
        yield b"".join(zmtp_frame(noise(size)) for _ in range(30))
    yield zmtp_frame(b"", 1) * 2_000 + zmtp_frame(noise(10))
    # Valid envelopes with texts that are no UTF-8, unknown members, numbers that are too long.
    text = b"\x08\x01\x10\x01\x7a\x04\x0a\x02\xff\xfe"
    yield zmtp_frame(text) + zmtp_frame(b"\x08" + b"\xff" * 10) + zmtp_frame(b"\x7a\xff\xff\xff\xff\x0f")


def raw_payloads():
    hello = zmtp_greeting() + zmtp_ready()
    yield b""
    yield noise(1)
    yield noise(64)
    yield noise(100_000)
    yield b"\0" * 100_000
    yield zmtp_greeting()[:30]
    for mechanism in (b"NULL", b"CURVE", b"PLAIN", b"\xff" * 20):
        yield zmtp_greeting(mechanism) + noise(2_000)
    yield zmtp_greeting(b"CURVE") + zmtp_frame(b"\x05HELLO" + noise(194), 4)
    yield zmtp_greeting(b"CURVE") + zmtp_frame(b"\x08INITIATE" + noise(300), 4)
    yield hello + zmtp_frame(noise(100))
    yield b"GET / HTTP/1.1\r\n"
    yield b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n{}"
    yield b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}"
    yield b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx"
    yield (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
           b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    yield b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n"
    yield b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n"
    body = b'{"messages":' + b"[" * 50_000
    yield b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    yield b"BREW /pot HTCPCP/1.0\r\n\r\n\r\n"
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(500)  # TLS


def throw_at(family, address, parts, patience=0.05):
    """Sends the parts and returns what was answered. Being shown the door is a good answer, too."""
    answer = b""
    with socket.socket(family, socket.SOCK_STREAM) as s:
        try:
            s.settimeout(5)
            s.connect(address)
            for data in parts:
                s.settimeout(5)
                s.sendall(data)
                last = data is parts[-1]
                s.settimeout(patience if last else 2 if family == socket.AF_UNIX else 0.2)
                while last or b"READY" not in answer:  # which says that the peer was let in
                    part = s.recv(65536)
                    if not part:
                        return answer
                    answer += part
        except (ConnectionError, TimeoutError, BrokenPipeError):
            pass
    return answer


def listening_ports(pids):
    """(address, port) of every TCP socket on which one of the processes listens."""
    inodes = set()
    for pid in pids:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    with open("/proc/net/tcp") as f:
        for line in f.readlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and cells[9] in inodes:
                address, port = cells[1].split(":")
                found.add((socket.inet_ntoa(struct.pack("<I", int(address, 16))), int(port, 16)))
    return found


def test_garbage():
    """Garbage on every socket of a serving deployment and of the daemon changes nothing."""
    with Site("garbage") as site:
        site.start_daemon()
        before = deploy(site, "target")
        # Ranks listen only while their group forms.
        targets = [(socket.AF_UNIX, os.path.join(site.run, f)) for f in ("client.sock", "stage.sock")]
        for kind, at_least in (("daemon", 1), ("head", 5), ("rank", 0)):
            ports = listening_ports([p.pid for p in site.processes(kind)])
            check(len(ports) >= at_least, f"{kind} listens on {sorted(ports)}, at least {at_least} ports expected")
            targets += [(socket.AF_INET, p) for p in sorted(ports)]
        ping = (zmtp_greeting(), zmtp_ready() + zmtp_frame(b"\x08\x07\x10\x01\x52\x00"))
        said = throw_at(*targets[0], ping, patience=2)
        check(site.state.encode() in said, f"a ping like this is answered, so that garbage arrives: {said!r}")
        for family, address in targets:
            for data in payloads():
                throw_at(family, address, data)
            check(site.daemon.poll() is None, f"the daemon ended by garbage on {address}")
            check(identities(site.show("target")) == identities(before), f"a process ended by garbage on {address}")
        still_serves(site, "target", before)
        with open(os.path.join(site.folder, "daemon.log"), errors="replace") as f:
            check("libprotobuf" not in f.read(), "the Protocol Buffers library writes to standard error")
        site.bp("stop", "target")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


# -- full disks ---------------------------------------------------------------------------------------------

class SmallDisk:
    """A file system of its own with that many MiB; `mounted` tells whether this user may have one."""

    def __init__(self, path, mib):
        self.path = path
        os.makedirs(path, mode=0o700, exist_ok=True)
        self.mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", path],
                                      capture_output=True, check=False).returncode == 0

    def resize(self, mib):
        subprocess.run(["mount", "-o", f"remount,size={mib}m", self.path], check=True, capture_output=True)

    def fill(self):
        """Takes what room there is; returns the file that does."""
        path = os.path.join(self.path, "filler")
        with open(path, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"\0" * 4096)
            except OSError:
                pass
        return path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.mounted:
            subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)


def test_disk_full_of_weights():
    """Weights that do not fit: the error names the file system, and the fetch goes on when there is room."""
    with Site("full") as site, SmallDisk(os.path.join(site.state, "cache"), 40) as disk:
        if not disk.mounted:
            print("skip  test_disk_full_of_weights: this user may not mount a small file system")
            return
        os.chmod(site.state, 0o700)
        site.start_daemon()
        site.bp("submit", site.recipe("full"))
        stage = wait_until("BP_DISK_FULL to be shown", lambda: next(
            (s for s in site.show("full")["stages"] if "BP_DISK_FULL" in json.dumps(s.get("error", {}))), None), 30)
        check(stage["name"] == "fetch_weights", f"{stage}")
        check("cache" in stage["error"]["message"], f"the path is not named: {stage['error']}")
        disk.resize(1000)
        view = site.wait_state("full", "serving", 60)
        check("Paris" in chat(view["endpoint"], CAPITAL), "the right answer")
        site.bp("stop", "full")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


def test_disk_full_of_journal():
    """A journal that cannot be written stops the daemon, never what it serves; with room it comes back whole."""
    with Site("journal") as site, SmallDisk(site.state, 600) as disk:
        if not disk.mounted:
            print("skip  test_disk_full_of_journal: this user may not mount a small file system")
            return
        site.start_daemon()
        before = deploy(site, "steady")
        filler = disk.fill()
        big = {"recipe_id": "x" * 200}
        for i in range(400):  # until the journal needs a page that the disk does not have
            site.bp("submit", site.recipe(f"more-{i}", **big), ok=None, timeout=90)
            if site.daemon.poll() is not None:
                break
        check(site.daemon.wait(10) not in (0, None), "the daemon says by its exit code why it ended")
        with open(os.path.join(site.folder, "daemon.log"), errors="replace") as f:
            log = f.read()
        check("journal.unusable" in log and "BP_DISK_FULL" in log, "the log names the full disk")
        check("Paris" in chat(before["endpoint"], CAPITAL), "the deployment serves on without a daemon")
        os.remove(filler)
        site.start_daemon()
        wait_until("the same processes to be known again",
                   lambda: identities(site.show("steady")) == identities(before), 20)
        still_serves(site, "steady", before)
        for run in json.loads(site.bp("list", "--json").stdout):
            site.bp("stop", run["id"], ok=None)
        wait_until("nothing to be left", lambda: not site.leftovers(), 30)


# -- models that lie ----------------------------------------------------------------------------------------

def lying_models():
    """(name, files, a word of the error): files by their name in the model's folder."""
    for name in ("tensor_count", "entry_count", "dims_overflow", "offset_wraps", "overlap", "string", "array",
                 "alignment", "half", "type"):
        with open(os.path.join(ROOT, "tests", "fuzz", "corpus", "gguf", name), "rb") as f:
            yield "gguf-" + name.replace("_", "-"), {"model.gguf": f.read()}
    yield "gguf-empty", {"model.gguf": b""}
    yield "gguf-magic", {"model.gguf": b"GGUG" + make_corpus.gguf()[4:]}
    config = json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 32,
                         "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
                         "vocab_size": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000,
                         "max_position_embeddings": 64, "eos_token_id": 2}).encode()
    for name in ("overlap", "outside", "overflow", "negative", "dtype", "length", "duplicate"):
        with open(os.path.join(ROOT, "tests", "fuzz", "corpus", "safetensors", name), "rb") as f:
            yield "st-" + name, {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": f.read()}


def test_lying_models():
    """Truncated and lying model files fail in validate; the error names the object and the place."""
    with Site("lying") as site:
        site.start_daemon()
        for name, files in lying_models():
            for file, data in files.items():
                path = os.path.join(site.folder, f"{name}-{file}")
                with open(path, "wb") as f:
                    f.write(data)
                site.store.add(f"{name}/{file}", path)
            recipe = site.recipe(name, nodes=1, gpus=1, shape="VM.GPU.A10.1", folder=name, with_model=False)
            r = site.bp("submit", recipe, "--wait", ok=1, timeout=30)
            view = site.show(name)
            bad = [s for s in view["stages"] if (s.get("error") or {}).get("code")]
            check(view["state"] == "failed" and len(bad) == 1 and bad[0]["name"] == "validate", f"{name}: {view}")
            error = bad[0]["error"]
            check(error["code"] in ("BP_CORRUPT_DATA", "BP_UNSUPPORTED", "BP_TOO_LARGE"), f"{name}: {error}")
            check("model." in error["message"], f"{name}: the object is not named: {error}")
            check(len(error["message"]) > 40, f"{name}: the place is not named: {error}")
            check(bad[0]["attempt"] == 1, f"{name}: tried {bad[0]['attempt']} times, it cannot get better")
        check(not site.leftovers(), f"left over: {site.leftovers()}")


if __name__ == "__main__":
    main([test_plugins, test_garbage, test_disk_full_of_weights, test_disk_full_of_journal, test_lying_models])
