// Builds small model files in memory, so that a test can spoil exactly one thing.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace bp::plan::test {

template <class T>
std::string le(T v) {
  std::string s(sizeof v, '\0');
  std::memcpy(s.data(), &v, sizeof v);
  return s;
}
inline std::string gguf_text(const std::string& s) { return le<uint64_t>(s.size()) + s; }
inline std::string kv_u32(const std::string& k, uint32_t v) {
  return gguf_text(k) + le<uint32_t>(4) + le(v);
}
inline std::string kv_f32(const std::string& k, float v) {
  return gguf_text(k) + le<uint32_t>(6) + le(v);
}
inline std::string kv_text(const std::string& k, const std::string& v) {
  return gguf_text(k) + le<uint32_t>(8) + gguf_text(v);
}

struct GgufTensor {
  std::string name;
  std::vector<uint64_t> ne;  // fastest first, as in the file
  uint32_t type = 0;
  uint64_t offset = 0;
};

struct GgufFile {
  uint32_t magic = 0x46554747, version = 3;
  std::vector<std::string> entries;
  std::vector<GgufTensor> tensors;
  uint64_t data_bytes = 0;
  int64_t tensor_count = -1, entry_count = -1;  // -1: the true count

  std::string bytes() const {
    std::string s = le(magic) + le(version);
    s += le<uint64_t>(tensor_count < 0 ? tensors.size() : static_cast<uint64_t>(tensor_count));
    s += le<uint64_t>(entry_count < 0 ? entries.size() : static_cast<uint64_t>(entry_count));
    for (const auto& e : entries) s += e;
    for (const auto& t : tensors) {
      s += gguf_text(t.name) + le<uint32_t>(static_cast<uint32_t>(t.ne.size()));
      for (uint64_t n : t.ne) s += le(n);
      s += le(t.type) + le(t.offset);
    }
    s.resize((s.size() + 31) / 32 * 32);
    s.resize(s.size() + data_bytes);
    return s;
  }
};

/// A whole tiny Llama in F32: 2 layers, hidden 32, 4 heads, 2 KV heads, FFN 64, vocabulary 96,
/// tied.
inline GgufFile tiny_gguf() {
  GgufFile f;
  f.entries = {kv_text("general.architecture", "llama"),
               kv_u32("llama.block_count", 2),
               kv_u32("llama.context_length", 128),
               kv_u32("llama.embedding_length", 32),
               kv_u32("llama.feed_forward_length", 64),
               kv_u32("llama.attention.head_count", 4),
               kv_u32("llama.attention.head_count_kv", 2),
               kv_f32("llama.attention.layer_norm_rms_epsilon", 1e-5f),
               kv_f32("llama.rope.freq_base", 10000.0f),
               kv_u32("llama.vocab_size", 96),
               kv_u32("tokenizer.ggml.bos_token_id", 1),
               kv_u32("tokenizer.ggml.eos_token_id", 2)};
  auto add = [&f](const std::string& name, std::vector<uint64_t> ne) {
    uint64_t n = 4;
    for (uint64_t d : ne) n *= d;
    f.tensors.push_back({name, std::move(ne), 0, f.data_bytes});
    f.data_bytes += (n + 31) / 32 * 32;
  };
  add("token_embd.weight", {32, 96});
  add("output_norm.weight", {32});
  for (int l = 0; l < 2; ++l) {
    const std::string b = "blk." + std::to_string(l) + ".";
    add(b + "attn_norm.weight", {32});
    add(b + "ffn_norm.weight", {32});
    add(b + "attn_q.weight", {32, 32});
    add(b + "attn_k.weight", {32, 16});
    add(b + "attn_v.weight", {32, 16});
    add(b + "attn_output.weight", {32, 32});
    add(b + "ffn_gate.weight", {32, 64});
    add(b + "ffn_up.weight", {32, 64});
    add(b + "ffn_down.weight", {64, 32});
  }
  return f;
}

inline std::string safetensors(const std::string& header, size_t data_bytes) {
  return le<uint64_t>(header.size()) + header + std::string(data_bytes, '\0');
}

}  // namespace bp::plan::test
