#!/usr/bin/env python3
"""An object store for one machine that speaks the pre-authenticated-request (PAR) protocol.

    par_store.py --root FOLDER [--bucket NAME] [--port 0] [--token-file FILE]

Every folder in FOLDER is a bucket; with --bucket, FOLDER itself is the one bucket of that name.
Prints the PAR URL of each bucket, one a line, once it listens, and serves until it is ended:

    GET /p/TOKEN/n/NAMESPACE/b/BUCKET/o/?prefix=&start=&end=&limit=&fields=&delimiter=   list
    GET /p/TOKEN/n/NAMESPACE/b/BUCKET/o/NAME                                             read

Reads honour Range and If-Match and answer 200, 206, 404, 412 or 416. A wrong token, namespace or
bucket is 404, as the real service has it. Only the Python standard library is needed.

--faults FILE makes it misbehave, for tests. The file is read again whenever it changes:

    {"rules": [{"match": "*.gguf", "on": "get", "times": 3, "status": 500}]}

or the list of rules alone; the first one that fits counts.
match: shell pattern on the object name (of a listing: the bucket); on: "get", "list" or "any";
times: how many requests the rule hits (default: all); and what happens: status, delay_ms (first wait),
cut_after (close after that many bytes of body), bytes_per_s, redirect (a URL; {path} is the request's
own path), garbage (a body that is none), ignore_range (always the whole object), wrong_bytes (same
length, other content). --request-log FILE gets one JSON line per request, without the token.
"""
import argparse
import base64
import fnmatch
import hashlib
import http.server
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
import urllib.parse

CHUNK = 64 * 1024
FAULT_KEYS = {"match", "on", "times", "status", "delay_ms", "cut_after", "bytes_per_s", "redirect", "garbage",
              "ignore_range", "wrong_bytes"}


class Store:
    """Buckets below a folder. Digests are kept until a file's time or size changes. Any thread."""

    def __init__(self, root, bucket, namespace, token, page_limit):
        self.root, self.bucket = os.path.realpath(root), bucket
        self.namespace, self.token, self.page_limit = namespace, token, page_limit
        self.digests, self.lock = {}, threading.Lock()

    def buckets(self):
        if self.bucket:
            return [self.bucket]
        return sorted(e.name for e in os.scandir(self.root) if e.is_dir())

    def folder(self, bucket):
        return self.root if self.bucket else os.path.join(self.root, bucket)

    def names(self, bucket):
        folder = self.folder(bucket)
        found = []
        for at, _, files in os.walk(folder):
            found += [os.path.relpath(os.path.join(at, f), folder) for f in files]
        return sorted(found)

    def path(self, bucket, name):
        """The file of an object, or None: names that lead out of the bucket do not exist. Symbolic links in
        the bucket are the operator's own and are followed."""
        if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
            return None
        path = os.path.join(self.folder(bucket), name)
        return path if os.path.isfile(path) else None

    def md5(self, path):
        st = os.stat(path)
        stamp = (st.st_mtime_ns, st.st_size)
        with self.lock:
            known = self.digests.get(path)
        if known and known[0] == stamp:
            return known[1]
        digest = hashlib.md5()
        with open(path, "rb") as f:
            for block in iter(lambda: f.read(1 << 20), b""):
                digest.update(block)
        with self.lock:
            self.digests[path] = (stamp, digest.digest())
        return digest.digest()


class Faults:
    """Rules from a file that is read again when it changes. Any thread."""

    def __init__(self, path):
        self.path, self.stamp, self.rules, self.lock = path, None, [], threading.Lock()

    def take(self, kind, name):
        """What the first rule that fits says; each hit is counted."""
        if not self.path:
            return {}
        with self.lock:
            try:
                st = os.stat(self.path)
                if (st.st_mtime_ns, st.st_size, st.st_ino) != self.stamp:
                    with open(self.path, encoding="utf-8") as f:
                        found = json.load(f)
                    self.rules = found.get("rules", []) if isinstance(found, dict) else found
                    for key in {k for rule in self.rules for k in rule} - FAULT_KEYS:
                        print(f"par_store: unknown fault \"{key}\"; known: {sorted(FAULT_KEYS)}", file=sys.stderr)
                    self.stamp = (st.st_mtime_ns, st.st_size, st.st_ino)
            except (OSError, ValueError) as e:
                print(f"par_store: cannot read the faults: {e}", file=sys.stderr)
                return {}
            for rule in self.rules:
                if rule.get("on", "any") not in ("any", kind) or rule.get("times", 1) <= 0:
                    continue
                if not fnmatch.fnmatchcase(name, rule.get("match", "*")):
                    continue
                if "times" in rule:
                    rule["times"] -= 1
                return {k: v for k, v in rule.items() if k not in ("match", "on", "times")}
            return {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "par_store"
    timeout = 120
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass  # the request line holds the token

    def do_HEAD(self):
        self.handle_request()

    def do_GET(self):
        self.handle_request()

    def handle_request(self):
        store = self.server.store
        self.fault = {}
        url = urllib.parse.urlsplit(self.path)
        m = re.fullmatch(r"/p/([^/]+)/n/([^/]+)/b/([^/]+)/o(?:/(.*))?", url.path, re.S)
        parts = [urllib.parse.unquote(g or "") for g in m.groups()] if m else None
        if not parts or not secrets.compare_digest(parts[0].encode(), store.token.encode()) \
                or parts[1] != store.namespace or parts[2] not in store.buckets():
            return self.fail(404, "BucketNotFound")
        bucket, name = parts[2], parts[3]
        kind = "get" if name else "list"
        self.fault = self.server.faults.take(kind, name or bucket)
        self.server.note({"kind": kind, "name": name or bucket, "range": self.headers.get("Range"),
                          "fault": self.fault, "query": url.query})
        if self.fault.get("delay_ms"):
            time.sleep(self.fault["delay_ms"] / 1000)
        if self.fault.get("redirect"):
            return self.redirect(url)
        if self.fault.get("status"):
            return self.fail(self.fault["status"], "Injected")
        if self.fault.get("garbage"):
            data = b"\x00<html>}{ no listing"
            return self.body(200, {"Content-Type": "application/json"}, [data], len(data))
        if kind == "list":
            return self.list(bucket, urllib.parse.parse_qs(url.query, keep_blank_values=True))
        return self.read(bucket, name)

    def redirect(self, url):
        self.send_response(307)
        self.send_header("Location", self.fault["redirect"].replace("{path}", url.path))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def fail(self, status, code):
        data = json.dumps({"code": code, "message": f"status {status}"}).encode()
        self.body(status, {"Content-Type": "application/json"}, [data], len(data))

    def list(self, bucket, query):
        store = self.server.store
        one = lambda key, other="": query.get(key, [other])[0]
        prefix, start, end, delimiter = one("prefix"), one("start"), one("end"), one("delimiter")
        fields = [f for f in one("fields", "name").split(",") if f]
        try:
            limit = min(max(int(one("limit", str(store.page_limit))), 1), store.page_limit)
        except ValueError:
            return self.fail(400, "InvalidParameter")
        objects, prefixes, following = [], [], None
        for name in store.names(bucket):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            folder = name.find(delimiter, len(prefix)) if delimiter else -1
            if folder >= 0:
                if name[:folder + 1] not in prefixes:
                    prefixes.append(name[:folder + 1])
                continue
            if len(objects) == limit:
                following = name
                break
            path = store.path(bucket, name)
            if not path:
                continue
            entry = {"name": name}
            if "size" in fields:
                entry["size"] = os.path.getsize(path)
            if "md5" in fields:
                entry["md5"] = base64.b64encode(store.md5(path)).decode()
            if "etag" in fields:
                entry["etag"] = store.md5(path).hex()
            objects.append(entry)
        answer = {"objects": objects, "prefixes": prefixes}
        if following is not None:
            answer["nextStartWith"] = following
        data = json.dumps(answer).encode()
        self.body(200, {"Content-Type": "application/json"}, [data], len(data))

    def read(self, bucket, name):
        store = self.server.store
        path = store.path(bucket, name)
        if not path:
            return self.fail(404, "ObjectNotFound")
        digest, size = store.md5(path), os.path.getsize(path)
        wanted = self.headers.get("If-Match")
        if wanted and wanted.strip('"') != digest.hex() and wanted != "*":
            return self.fail(412, "IfMatchFailed")
        headers = {"ETag": digest.hex(), "Accept-Ranges": "bytes",
                   "Content-Type": "application/octet-stream",
                   "Content-MD5": base64.b64encode(digest).decode()}
        first, last, status = 0, size - 1, 200
        asked = None if self.fault.get("ignore_range") else self.headers.get("Range")
        if asked:
            m = re.fullmatch(r"bytes=(\d*)-(\d*)", asked.strip())
            if m and (m[1] or m[2]):
                if m[1]:
                    first, last = int(m[1]), min(int(m[2]) if m[2] else size - 1, size - 1)
                else:
                    first = max(size - int(m[2]), 0)
                if first >= size or first > last:
                    self.fault["extra"] = {"Content-Range": f"bytes */{size}"}
                    return self.fail(416, "RangeNotSatisfiable")
                status = 206
                headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.body(status, headers, self.blocks(path, first, last - first + 1), last - first + 1)

    def blocks(self, path, offset, count):
        with open(path, "rb") as f:
            f.seek(offset)
            while count > 0:
                block = f.read(min(CHUNK, count))
                if not block:
                    return
                count -= len(block)
                yield bytes(b ^ 0xff for b in block) if self.fault.get("wrong_bytes") else block

    def body(self, status, headers, blocks, size):
        self.send_response(status)
        for k, v in {**headers, **self.fault.get("extra", {})}.items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            return
        left, speed = self.fault.get("cut_after"), self.fault.get("bytes_per_s")
        for block in blocks:
            if left is not None:
                block, left = block[:left], left - len(block)
            if speed:
                step = max(int(speed / 10), 1)
                for at in range(0, len(block), step):
                    self.wfile.write(block[at:at + step])
                    time.sleep(len(block[at:at + step]) / speed)
            else:
                self.wfile.write(block)
            if left is not None and left <= 0:
                self.wfile.flush()
                self.close_connection = True
                return


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, store, faults, request_log):
        super().__init__(address, Handler)
        self.store, self.faults = store, faults
        self.log, self.log_lock = open(request_log, "a", encoding="utf-8") if request_log else None, threading.Lock()

    def note(self, entry):
        if self.log:
            with self.log_lock:
                self.log.write(json.dumps(entry) + "\n")
                self.log.flush()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (BrokenPipeError, ConnectionResetError, TimeoutError)):
            super().handle_error(request, client_address)


def read_token(path):
    """The token in the file; makes one there (mode 0600) when there is none."""
    if not path:
        return secrets.token_urlsafe(32)
    try:
        with open(path, encoding="ascii") as f:
            token = f.read().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(token + "\n")
    if not re.fullmatch(r"[A-Za-z0-9_~.-]+", token):
        sys.exit(f"par_store: {path} holds no token: letters, digits and _ ~ . - are expected")
    return token


def main():
    p = argparse.ArgumentParser(description="Object store with pre-authenticated requests, on loopback")
    p.add_argument("--root", required=True, help="folder whose folders are the buckets")
    p.add_argument("--bucket", help="serve ROOT itself as the one bucket of this name")
    p.add_argument("--address", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    p.add_argument("--port", type=int, default=0, help="0: any free one")
    p.add_argument("--namespace", default="local")
    p.add_argument("--token-file", help="holds the token; made when missing (default: a new token)")
    p.add_argument("--url-file", help="the URLs are written there too (mode 0600)")
    p.add_argument("--page-limit", type=int, default=1000, help="most names on one list page")
    p.add_argument("--faults", help="JSON file of faults to inject, for tests")
    p.add_argument("--request-log", help="one JSON line per request, for tests")
    a = p.parse_args()
    if not os.path.isdir(a.root):
        sys.exit(f"par_store: --root {a.root} is no folder")
    store = Store(a.root, a.bucket, a.namespace, read_token(a.token_file), max(a.page_limit, 1))
    try:
        server = Server((a.address, a.port), store, Faults(a.faults), a.request_log)
    except OSError as e:
        sys.exit(f"par_store: cannot listen on {a.address}:{a.port}: {e.strerror}")
    base = f"http://{a.address}:{server.server_address[1]}/p/{store.token}/n/{a.namespace}/b/"
    urls = "".join(f"{base}{urllib.parse.quote(b)}/o/\n" for b in store.buckets())
    if a.url_file:
        tmp = a.url_file + ".tmp"
        with os.fdopen(os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            f.write(urls)
        os.replace(tmp, a.url_file)
    sys.stdout.write(urls)
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        server.serve_forever(poll_interval=0.5)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
