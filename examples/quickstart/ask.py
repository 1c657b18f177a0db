#!/usr/bin/env python3
"""Asks an OpenAI-compatible endpoint one question and prints the answer as it streams.

usage: ask.py ENDPOINT QUESTION [FILE]     FILE gets the milliseconds to the first token
"""
import http.client
import json
import sys
import time
import urllib.parse


def main() -> int:
    url = urllib.parse.urlsplit(sys.argv[1])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    connection.request("GET", "/v1/models")
    model = json.load(connection.getresponse())["data"][0]["id"]
    body = json.dumps({
        "model": model,
        "messages": [{"role": "user", "content": sys.argv[2]}],
        "stream": True,
        "temperature": 0,
        "max_tokens": 64,
    })
    begin = time.monotonic()
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        print(f"HTTP {response.status}: {response.read(2000).decode(errors='replace')}", file=sys.stderr)
        return 1
    first_ms, pieces = None, 0
    for line in response:
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            break
        chunk = json.loads(data)
        if "error" in chunk:
            print(f"\nerror: {chunk['error']}", file=sys.stderr)
            return 1
        for choice in chunk.get("choices", []):
            text = choice.get("delta", {}).get("content")
            if text:
                first_ms = first_ms or (time.monotonic() - begin) * 1000
                pieces += 1
                print(text, end="", flush=True)
    print()
    if pieces == 0:
        print("the stream ended without any text", file=sys.stderr)
        return 1
    if len(sys.argv) > 3:
        with open(sys.argv[3], "w", encoding="ascii") as f:
            f.write(f"{first_ms:.1f}\n")
    return 0


sys.exit(main())
