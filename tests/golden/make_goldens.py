#!/usr/bin/env python3
"""Makes the golden files of this folder with `transformers` in FP32 from the very same GGUF file.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers gguf accelerate
    /tmp/venv/bin/python make_goldens.py MODEL.gguf [goldens] [kl]

goldens.json   32 prompts x 64 greedy tokens: token ids, and at each place the gap between the two best logits.
kl_text.bin    reference for the KL test over text.txt (public domain), little endian:
               u32 count of rows, u32 top, then per row: u16 token, u16[top] ids, f32[top] log probabilities.
               Row i predicts what follows token i within windows of 512 tokens.
"""
import json
import os
import struct
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
NEW_TOKENS = 64
WINDOW = 512
TOP = 64

CHAT = [
    "What is the capital of France?",
    "Explain in one sentence why the sky is blue.",
    "Write a short poem about a lighthouse.",
    "List three uses of copper.",
    "What is 17 plus 25?",
    "Translate 'good morning' into Spanish.",
    "How do I boil an egg?",
    "Who wrote Hamlet?",
    "Name the planets of the solar system.",
    "What does a compiler do?",
    "Give me a name for a black cat.",
    "Why do leaves turn red in autumn?",
    "Describe a thunderstorm to a child.",
    "What is the difference between a lake and a pond?",
    "Write a Python function that reverses a list.",
    "Summarise: The ship left the harbour at dawn and did not return before winter.",
]
PLAIN = [
    "Once upon a time",
    "The quick brown fox",
    "def fibonacci(n):\n",
    "In the beginning of the nineteenth century, travellers",
    "The three most important properties of water are",
    "1, 2, 4, 8, 16,",
    "Dear Sir or Madam,\n",
    "A recipe for bread needs flour,",
    "#include <stdio.h>\n\nint main(",
    "The train was late again, and",
    "Mathematics is the study of",
    "{\"name\": \"Alice\", \"age\":",
    "To sharpen a knife, first",
    "The moon orbits the Earth because",
    "Question: Which animal is the largest?\nAnswer:",
    "Snow fell all night on the small village between the mountains. In the morning the children",
]


def load(path):
    folder, name = os.path.split(os.path.abspath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, torch_dtype=torch.float32)
    return tokenizer, model.eval()


def greedy(model, ids):
    tokens, gaps, past = [], [], None
    feed = torch.tensor([ids])
    for _ in range(NEW_TOKENS):
        out = model(feed, past_key_values=past, use_cache=True)
        past = out.past_key_values
        best = torch.topk(out.logits[0, -1], 2)
        tokens.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 5))
        feed = torch.tensor([[tokens[-1]]])
    return tokens, gaps


def goldens(tokenizer, model):
    out = []
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": c}], tokenize=False,
                                             add_generation_prompt=True) for c in CHAT] + PLAIN
    for text in prompts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens, gaps = greedy(model, ids)
        out.append({"text": text, "prompt": ids, "tokens": tokens, "gaps": gaps})
        print(repr(tokenizer.decode(tokens))[:90], flush=True)
    with open(os.path.join(HERE, "goldens.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(o, separators=(",", ":")) for o in out) + "\n]\n")


def kl_reference(tokenizer, model):
    with open(os.path.join(HERE, "text.txt")) as f:
        ids = tokenizer(f.read(), add_special_tokens=False)["input_ids"]
    rows = []
    for start in range(0, len(ids), WINDOW):
        window = ids[start:start + WINDOW]
        logits = model(torch.tensor([window])).logits[0]
        best = torch.topk(torch.log_softmax(logits.double(), -1), TOP)
        for token, i, v in zip(window, best.indices.tolist(), best.values.tolist()):
            rows.append(struct.pack(f"<H{TOP}H{TOP}f", token, *i, *v))
    with open(os.path.join(HERE, "kl_text.bin"), "wb") as f:
        f.write(struct.pack("<II", len(rows), TOP) + b"".join(rows))
    print(len(rows), "rows of reference")


def main():
    tokenizer, model = load(sys.argv[1])
    parts = sys.argv[2:] or ["goldens", "kl"]
    with torch.no_grad():
        if "goldens" in parts:
            goldens(tokenizer, model)
        if "kl" in parts:
            kl_reference(tokenizer, model)


main()
