#!/usr/bin/env python3
"""Writes the committed corpus of the fuzzers: small valid inputs and one spoiled copy for each way to spoil.

usage: tests/fuzz/make_corpus.py
"""
import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
MAX64 = 2**64 - 1


def write(kind, name, data):
    folder = os.path.join(HERE, "corpus", kind)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def recipes():
    with open(os.path.join(ROOT, "examples", "recipes", "every_field.json")) as f:
        text = f.read().replace("PORT", "8080").replace("TOKEN", "0123456789abcdef0123")
    write("recipe", "every_field", text)
    compact = json.dumps(json.loads(text), separators=(",", ":"))
    write("recipe", "compact", compact)
    write("recipe", "numbers", compact.replace('"400"', "400").replace('"2"', "-2").replace('"26"', "26.0"))
    write("recipe", "duplicate", compact[:-1] + ',"recipe_mode":"service"}')
    write("recipe", "service", '{"recipe_mode":"service","deployment_name":"x"}')
    write("recipe", "deep", "[" * 40)
    write("recipe", "escapes", compact.replace("/p/", "\\/p\\/").replace("every_field", "\\u0000\\ud800"))
    write("recipe", "empty", "")
    # token_elsewhere was found by libFuzzer: part of an address pasted into another field


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(s)) + s


def u32(key, value):
    return text(key) + struct.pack("<II", 4, value)


def gguf(change=None):
    """A whole Llama of one layer: hidden 32, 2 heads, 1 KV head, FFN 32, vocabulary 8."""
    parts = {
        "magic": b"GGUF", "version": 3, "tensor_count": None, "entry_count": None,
        "entries": [text("general.architecture") + struct.pack("<I", 8) + text("llama"),
                    u32("llama.block_count", 1), u32("llama.context_length", 64), u32("llama.embedding_length", 32),
                    u32("llama.feed_forward_length", 32), u32("llama.attention.head_count", 2),
                    u32("llama.attention.head_count_kv", 1),
                    text("llama.rope.freq_base") + struct.pack("<If", 6, 10000.0),
                    text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 8) + b"".join(map(text, "abcdefgh")),
                    text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, 8) + struct.pack("<8i", *[1] * 8),
                    text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<2f", 0.5, 1),
                    text("tokenizer.ggml.add_bos_token") + struct.pack("<IB", 7, 1),
                    u32("tokenizer.ggml.eos_token_id", 2)],
        "tensors": [["token_embd.weight", [32, 8], 8], ["output_norm.weight", [32], 0],
                    ["blk.0.attn_norm.weight", [32], 0], ["blk.0.ffn_norm.weight", [32], 0],
                    ["blk.0.attn_q.weight", [32, 32], 3], ["blk.0.attn_k.weight", [32, 16], 2],
                    ["blk.0.attn_v.weight", [32, 16], 1], ["blk.0.attn_output.weight", [32, 32], 30],
                    ["blk.0.ffn_gate.weight", [32, 32], 3], ["blk.0.ffn_up.weight", [32, 32], 3],
                    ["blk.0.ffn_down.weight", [32, 32], 8]]}
    size = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 30: (1, 2)}
    at = 0
    for t in parts["tensors"]:
        elements = 1
        for d in t[1]:
            elements *= d
        block, bytes_ = size[t[2]]
        t.append(at)
        at += (elements // block * bytes_ + 31) // 32 * 32
    if change:
        change(parts)
    tensors = len(parts["tensors"]) if parts["tensor_count"] is None else parts["tensor_count"]
    entries = len(parts["entries"]) if parts["entry_count"] is None else parts["entry_count"]
    out = parts["magic"] + struct.pack("<IQQ", parts["version"], tensors, entries)
    out += b"".join(parts["entries"])
    for name, dims, kind, offset in parts["tensors"]:
        out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", kind, offset)
    out += b"\0" * (-len(out) % 32)
    return out + b"\0" * at


def ggufs():
    def set_part(key, value):
        return lambda p: p.__setitem__(key, value)

    def set_tensor(i, field, value):
        return lambda p: p["tensors"][i].__setitem__(field, value)
    write("gguf", "valid", gguf())
    write("gguf", "version_2", gguf(set_part("version", 2)))
    write("gguf", "tensor_count", gguf(set_part("tensor_count", 2**60)))
    write("gguf", "entry_count", gguf(set_part("entry_count", MAX64)))
    write("gguf", "dims_overflow", gguf(set_tensor(0, 1, [2**33, 2**33])))
    write("gguf", "offset_wraps", gguf(set_tensor(1, 3, MAX64 - 31)))
    write("gguf", "overlap", gguf(set_tensor(2, 3, 0)))
    write("gguf", "type", gguf(set_tensor(0, 2, 12)))
    write("gguf", "string", gguf(lambda p: p["entries"].insert(0, struct.pack("<Q", MAX64))))
    write("gguf", "array", gguf(lambda p: p["entries"].append(text("a") + struct.pack("<IIQ", 9, 4, MAX64))))
    write("gguf", "alignment", gguf(lambda p: p["entries"].append(u32("general.alignment", 0))))
    write("gguf", "half", gguf()[:700])


def safetensors():
    def pack(header, data=0):
        h = header.encode() if isinstance(header, str) else json.dumps(header).encode()
        return struct.pack("<Q", len(h)) + h + b"\0" * data
    a = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    b = {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}
    write("safetensors", "valid", pack({"__metadata__": {"format": "pt"}, "a": a, "b": b}, 24))
    write("safetensors", "overlap", pack({"a": a, "b": {**b, "data_offsets": [8, 16]}}, 16))
    write("safetensors", "outside", pack({"a": a}, 8))
    write("safetensors", "overflow", pack({"a": {**a, "shape": [2**32, 2**32, 2**32]}}, 16))
    write("safetensors", "negative", pack({"a": {**a, "shape": [-1]}}, 16))
    write("safetensors", "dtype", pack({"a": {**a, "dtype": "F8_E4M3"}}, 16))
    write("safetensors", "length", struct.pack("<Q", MAX64) + b"{}")
    write("safetensors", "duplicate", pack('{"a":%s,"a":%s}' % (json.dumps(a), json.dumps(a)), 16))


def model_json():
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536,
              "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
              "rms_norm_eps": 1e-5, "rope_theta": 100000, "max_position_embeddings": 8192, "bos_token_id": 1,
              "eos_token_id": [2, 3], "tie_word_embeddings": True,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 8192}}
    text_ = json.dumps(config)
    write("model_json", "valid", text_ + "\0" + json.dumps({"eos_token_id": 2}))
    write("model_json", "huge", text_.replace("576", "1e308"))
    write("model_json", "ids", text_.replace("[2, 3]", "[-1, 49152]"))
    write("model_json", "index", json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "../m"}}))


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def envelopes():
    epoch = field(1, 1) + field(2, 7)
    identity = field(1, 4242) + field(2, 99) + field(3, "boot")
    kinds = {
        "node_hello": (0, field(1, 1) + field(10, field(1, "n1-0") + field(2, "r-1") + field(4, identity))),
        "node_command": (0, field(1, 2) + field(31, field(1, 5) + field(2, "r-1") + field(3, epoch) +
                                                field(10, field(1, "rank-0") + field(2, 2) + field(4, "x")))),
        "stage_batch": (1, field(1, field(1, field(1, "r-1") + field(2, "serve") + field(5, epoch)) + field(2, 3) +
                                 field(11, field(1, field(1, 1) + field(2, 9) + field(3, "bytes")))) * 3),
        "client_submit": (2, field(1, 1) + field(2, 1) + field(11, field(1, "{}") + field(2, "key"))),
        "client_reply": (3, field(1, 1) + field(2, 1) + field(14, field(1, "r-1") + field(5, epoch))),
        "rank_step": (4, field(1, epoch) + field(31, field(1, 3) + field(2, field(1, 8) + field(2, b"\1\2\3")))),
        "head_generate": (5, field(1, 4) + field(3, field(2, "Hello") + field(6, 16))),
        "head_reply": (6, field(1, 4) + field(3, field(2, "Paris") + field(4, 1))),
    }
    for name, (kind, payload) in kinds.items():
        write("envelopes", name, bytes([kind]) + payload)
    write("envelopes", "length", bytes([2]) + varint(11 << 3 | 2) + varint(MAX64))
    write("envelopes", "nested", bytes([1]) + field(1, field(1, field(5, field(9, field(9, b"\xff" * 8))))))
    write("envelopes", "garbage", bytes(range(256)))


def journal():
    """Records, summaries and exports, as storage/record.h and storage/export.h say."""
    import hashlib

    def zigzag(n):
        return varint((n << 1) ^ (n >> 63) if n >= 0 else ((-n) << 1) - 1)

    def payload(body):
        return varint(len(body) + 1) + b"s" * 16 + b"m" * 8 + body

    def entry(run, body):
        return b"\0" + varint(run) + varint(2) + varint(4) + zigzag(-5) + varint(15) + b"\3" + varint(99) + body

    def field_of(v):
        return varint(len(v)) + v

    summary = (b"\1" + varint(7) + varint(5) + zigzag(1000) + zigzag(40) + varint(9) +
               b"".join(map(field_of, (b"r7-abcdef", b"name", b"flow", b"BP_IO", b"key"))) +
               varint(1) + field_of(b"team") + field_of(b"a"))
    items = [entry(7, payload(b"an event")), entry(8, b"\0" + b"h" * 32), b"\1" + varint(7) + payload(summary),
             b"\2" + varint(9) + payload(b"")]
    body = b"\1" + b"".join(items)
    write("journal", "record", b"\0" + bytes([len(items)]) + body)
    write("journal", "record_shrunk", b"\0\1\2" + b"d" * 32)
    write("journal", "record_count", b"\0\xff" + body)
    write("journal", "record_cut", b"\0" + bytes([len(items)]) + body[:-3])
    write("journal", "record_huge_body", b"\0\1\1" + entry(7, varint(MAX64) + b"s" * 24))
    write("journal", "summary", b"\2" + summary)
    write("journal", "summary_labels", b"\2" + summary[:-8] + varint(MAX64))

    def export(frames, count=None):
        out = b"bpjexp1\n\1"
        for f in frames:
            out += varint(len(f)) + f
        digest = hashlib.blake2b(out, digest_size=32).digest()
        last = b"\0" + varint(len(frames) if count is None else count) + digest
        return b"\1" + out + varint(len(last)) + last

    record = b"\1" + varint(1) + varint(1) + zigzag(5) + varint(len(items)) + varint(9) + b"r" * 32 + body
    row = b"\2" + field_of(b"meta") + b"\2" + field_of(b"key") + b"\3" + field_of(b"value") + b"\1" + zigzag(-3) + b"\0"
    write("journal", "export", export([record, row]))
    write("journal", "export_empty", export([]))
    write("journal", "export_frames", export([row], 9))
    write("journal", "export_frame_size", b"\1bpjexp1\n\2" + varint(1 << 40))
    write("journal", "export_cut", export([record, row])[:-20])


if __name__ == "__main__":
    for make in (recipes, ggufs, safetensors, model_json, envelopes, journal):
        make()
