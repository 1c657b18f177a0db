#!/usr/bin/env python3
"""Makes the goldens of tests/unit/runtime_text with the reference libraries.

usage: make_text_goldens.py SmolLM2-135M-Instruct.Q4_1.gguf
needs: pip install tokenizers jinja2 gguf

Writes beside itself, in text/: smollm2.json (token ids of texts), small_bpe/ and small_spm/ (tokenizer.json
files trained here, and their ids), templates.json (rendered chat templates).
"""
import json
import os
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "text")

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "What is the capital of France?",
    "The year 2024 had 366 days; pi is 3.14159.",
    "  two  spaces   three    four\ttab\t\ttabs\n\nnewlines\r\n\r\nwindows \n \n x",
    "trailing spaces   ",
    "\n",
    "\n\n\n",
    "   \n   ",
    "I'm you're he'll we've they'd it's CAN'T Won't o'clock 'quoted' ''twice''",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n\n\nclass A(B):\n\tpass\n",
    "#include <vector>\nint main() { std::vector<int> v{1,2,3}; return v[0]&&v.at(1)||!v.empty(); }",
    "https://example.com/a/b?c=d&e=%20f#g user@host.org 192.168.0.1:8080",
    "naïve café Ångström Größe façade",
    "Привет, мир! Как дела?",
    "你好，世界！今天天气怎么样？",
    "こんにちは世界。カタカナとひらがな",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "😀😃 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ❤️",
    "∑∏∫√∞ ≠ ≤ ≥ → ⇒ ∈ ℝ",
    "a\u00a0b\u2003c\u3000d\u2028e",
    "e\u0301 n\u0303 combining",
    "½ ¾ ² ³ Ⅷ ① ٣٤٥ १२३ 12३4",
    "x" * 300,
    "ab" * 200,
    " " * 70 + "x",
    "1234567890" * 5,
    "a1b2c3 4d5e6f 0x1F 1e-9 1,000,000.50",
    "\u0000\u0001\u001f\u007f",
    "\ufeffbom",
    "ZWJ\u200d ZWNJ\u200c soft\u00adhyphen",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|>",
    "<|im_start",
    "a<|im_end|>b<|im_end|> c",
    "<repo_name>x<file_sep>y<reponame>",
    "{\"json\": [1, 2.5, null, true], \"k\": \"v\\n\"}",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "ALL CAPS and MiXeD cAsE",
    "....!!!???---___***",
    "$100 €50 £20 ¥1000 100% @home #tag ^caret ~tilde `tick`",
    "The quick brown fox jumps over the lazy dog. " * 4,
]


def save(name, data):
    path = os.path.join(OUT, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=True, indent=0)
        f.write("\n")


def ids_of(tokenizer, texts):
    return [{"text": t, "ids": tokenizer.encode(t).ids} for t in texts]


def smollm2(path):
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == 3])
    save("smollm2.json", ids_of(tokenizer, TEXTS))


def small_bpe():
    llama3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
              r"\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(llama3), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|begin|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 0)])
    folder = os.path.join(OUT, "small_bpe")
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    save("small_bpe/tokenizer_config.json", {
        "bos_token": "<|begin|>", "eos_token": {"content": "<|im_end|>"},
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}"
                         "{% endfor %}"})
    save("small_bpe/generation_config.json", {"eos_token_id": [2, 1]})
    save("small_bpe.json", ids_of(tokenizer, TEXTS))


def small_spm():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    plain = [t for t in TEXTS if t.isascii() and "<|" not in t and "<repo" not in t]
    tokenizer.train_from_iterator(plain, trainers.BpeTrainer(vocab_size=700, special_tokens=special,
                                                             show_progress=False))
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 3]
    # SentencePiece allows every merge whose result is a token; list them all, best token first.
    vocab = data["model"]["vocab"]
    data["model"]["merges"] = [
        [t[:i], t[i:]] for t, _ in sorted(vocab.items(), key=lambda kv: kv[1]) if t not in special
        for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    folder = os.path.join(OUT, "small_spm")
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    texts = [t for t in TEXTS if t and "<|" not in t and "\u2581" not in t]
    save("small_spm.json", ids_of(tokenizer, texts))


class Generation(jinja2.ext.Extension):
    """{% generation %}, as transformers adds it: only marks text."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def templates():
    """Set up as transformers.utils.chat_template_utils._compile_jinja_template."""
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Refused(Exception):
        pass

    def raise_exception(message):
        raise Refused(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    cases = []
    folder = os.path.join(OUT, "templates")
    variables = json.load(open(os.path.join(folder, "variables.json"), encoding="utf-8"))
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".jinja"):
            continue
        source = open(os.path.join(folder, name), encoding="utf-8", newline="").read()
        for index, values in enumerate(variables):
            case = {"template": name, "variables": index}
            values = dict(bos_token="<s>", eos_token="</s>", tools=None, documents=None) | values
            try:
                case["text"] = env.from_string(source).render(**values)
            except Refused as e:
                case["refused"] = str(e)
            except Exception:
                case["failed"] = True
            cases.append(case)
    save("templates.json", cases)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    smollm2(sys.argv[1])
    small_bpe()
    small_spm()
    templates()
