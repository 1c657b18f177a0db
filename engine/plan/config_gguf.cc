// ModelConfig from GGUF metadata. Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#include <fmt/format.h>

#include <cmath>

#include "engine/base/limits.h"
#include "engine/plan/llama_tensors.h"
#include "engine/plan/model_header.h"

namespace bp::plan {
namespace {

Error corrupt(const std::string& key, const std::string& found, const std::string& expected) {
  return Error{ErrorCode::kCorruptData,
               fmt::format("GGUF key {}: found {}, expected {}", key, found, expected),
               {}};
}

Error unsupported(const std::string& what) {
  return Error{ErrorCode::kUnsupported, what, "Use a GGUF file of a plain Llama model"};
}

/// Typed look-ups in the metadata of one file.
class Keys {
 public:
  explicit Keys(const GgufHeader& header) : meta_(header.meta) {}

  bool has(const std::string& key) const { return meta_.count(key) != 0; }

  Result<uint64_t> number(const std::string& key, uint64_t max) const {
    auto it = meta_.find(key);
    if (it == meta_.end()) return corrupt(key, "none", "a number");
    uint64_t v = 0;
    if (auto* u = std::get_if<uint64_t>(&it->second))
      v = *u;
    else if (auto* i = std::get_if<int64_t>(&it->second); i && *i >= 0)
      v = static_cast<uint64_t>(*i);
    else
      return corrupt(key, "something else", "an unsigned number");
    if (v > max) return corrupt(key, std::to_string(v), fmt::format("at most {}", max));
    return v;
  }
  Result<uint64_t> number_or(const std::string& key, uint64_t max, uint64_t otherwise) const {
    if (!has(key)) return otherwise;
    return number(key, max);
  }
  Result<double> real_or(const std::string& key, double otherwise) const {
    auto it = meta_.find(key);
    if (it == meta_.end()) return otherwise;
    auto* d = std::get_if<double>(&it->second);
    if (!d || !std::isfinite(*d) || *d <= 0)
      return corrupt(key, "something else", "a positive number");
    return *d;
  }
  std::string text_or(const std::string& key, const std::string& otherwise) const {
    auto it = meta_.find(key);
    const auto* s = it == meta_.end() ? nullptr : std::get_if<std::string>(&it->second);
    return s ? *s : otherwise;
  }
  size_t texts(const std::string& key) const {
    auto it = meta_.find(key);
    const auto* v =
        it == meta_.end() ? nullptr : std::get_if<std::vector<std::string>>(&it->second);
    return v ? v->size() : 0;
  }

 private:
  const std::map<std::string, MetaValue>& meta_;
};

const TensorInfo* find_tensor(const GgufHeader& header, std::string_view name) {
  for (const TensorInfo& t : header.tensors) {
    if (t.name == name) return &t;
  }
  return nullptr;
}

Status read_shape(const Keys& keys, const GgufHeader& header, ModelShape& s) {
  BP_ASSIGN(s.layers, keys.number("llama.block_count", limits::kModelLayersMax));
  BP_ASSIGN(s.hidden, keys.number("llama.embedding_length", limits::kModelWidthMax));
  BP_ASSIGN(s.intermediate, keys.number("llama.feed_forward_length", limits::kModelWidthMax));
  BP_ASSIGN(s.heads, keys.number("llama.attention.head_count", limits::kModelHeadsMax));
  BP_ASSIGN(s.kv_heads,
            keys.number_or("llama.attention.head_count_kv", limits::kModelHeadsMax, s.heads));
  if (s.layers == 0 || s.hidden == 0 || s.intermediate == 0 || s.heads == 0 || s.kv_heads == 0) {
    return corrupt("llama.*", "a size of 0", "sizes of at least 1");
  }
  if (s.heads % s.kv_heads != 0) {
    return corrupt("llama.attention.head_count",
                   fmt::format("{} with {} KV heads", s.heads, s.kv_heads),
                   "a multiple of the KV heads");
  }
  if (!keys.has("llama.attention.key_length") && s.hidden % s.heads != 0) {
    return corrupt("llama.embedding_length", fmt::format("{} with {} heads", s.hidden, s.heads),
                   "a multiple of the heads, or llama.attention.key_length");
  }
  BP_ASSIGN(s.head_dim, keys.number_or("llama.attention.key_length", limits::kModelHeadDimMax,
                                       s.hidden / s.heads));
  if (s.head_dim < 2 || s.head_dim % 2 != 0) {
    return corrupt("llama.attention.key_length", std::to_string(s.head_dim), "an even number");
  }
  for (const char* key : {"llama.attention.value_length", "llama.rope.dimension_count"}) {
    BP_ASSIGN(const uint64_t n, keys.number_or(key, limits::kModelHeadDimMax, s.head_dim));
    if (n != s.head_dim) {
      return unsupported(
          fmt::format("GGUF key {}: found {}, expected the head dimension {}", key, n, s.head_dim));
    }
  }
  const size_t tokens = keys.texts("tokenizer.ggml.tokens");
  BP_ASSIGN(s.vocab, keys.number_or("llama.vocab_size", limits::kModelWidthMax, tokens));
  if (s.vocab == 0 || tokens > s.vocab) {
    return corrupt("llama.vocab_size", fmt::format("{} with {} tokens", s.vocab, tokens),
                   "at least the number of tokens");
  }
  s.tied_embedding =
      find_tensor(header, llama_tensor_name(FileFormat::kGguf, LlamaRole::kLmHead)) == nullptr;
  return {};
}

Status read_rope(const Keys& keys, const GgufHeader& header, ModelConfig& c) {
  BP_ASSIGN(c.rope_theta, keys.real_or("llama.rope.freq_base", 10000.0));
  c.rope_interleaved = true;
  if (const TensorInfo* t = find_tensor(header, "rope_freqs.weight")) {
    const std::vector<uint64_t> expected = {c.shape.head_dim / 2};
    if (t->shape != expected || t->type != WeightType::kF32) {
      return Error{
          ErrorCode::kCorruptData,
          fmt::format("GGUF tensor rope_freqs.weight: found another form, expected {} F32 values",
                      expected[0]),
          {}};
    }
    c.rope_scaling.type = "tensor";
    return {};
  }
  const std::string type = keys.text_or("llama.rope.scaling.type", "none");
  if (type != "none" && type != "linear") {
    return unsupported(fmt::format(
        "GGUF key llama.rope.scaling.type: found {}, expected none or linear", type.substr(0, 32)));
  }
  BP_ASSIGN(const double legacy, keys.real_or("llama.rope.scale_linear", 1.0));
  BP_ASSIGN(c.rope_scaling.factor, keys.real_or("llama.rope.scaling.factor", legacy));
  if (c.rope_scaling.factor != 1.0 && (type == "linear" || legacy != 1.0))
    c.rope_scaling.type = "linear";
  else
    c.rope_scaling.factor = 1.0;
  return {};
}

Status read_special_tokens(const Keys& keys, ModelConfig& c) {
  const uint64_t last = c.shape.vocab - 1;
  if (keys.has("tokenizer.ggml.bos_token_id")) {
    BP_ASSIGN(const uint64_t bos, keys.number("tokenizer.ggml.bos_token_id", last));
    c.bos_token = static_cast<int64_t>(bos);
  }
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (!keys.has(key)) continue;
    BP_ASSIGN(const uint64_t id, keys.number(key, last));
    if (c.eos_tokens.empty() || c.eos_tokens[0] != id)
      c.eos_tokens.push_back(static_cast<uint32_t>(id));
  }
  return {};
}

}  // namespace

Result<ModelConfig> config_from_gguf(const GgufHeader& header) {
  const Keys keys(header);
  ModelConfig c;
  c.architecture = keys.text_or("general.architecture", "");
  if (c.architecture != "llama") {
    return unsupported(fmt::format("GGUF key general.architecture: found {}, expected llama",
                                   c.architecture.empty() ? "none" : c.architecture.substr(0, 64)));
  }
  BP_ASSIGN(const uint64_t experts, keys.number_or("llama.expert_count", UINT32_MAX, 0));
  if (experts > 0)
    return unsupported(fmt::format("GGUF key llama.expert_count: found {}, expected 0", experts));
  BP_ASSIGN(const uint64_t splits, keys.number_or("split.count", UINT32_MAX, 1));
  if (splits > 1) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("GGUF key split.count: found {}, expected one file", splits),
                 "Merge the parts with `llama-gguf-split --merge`"};
  }
  BP_TRY(read_shape(keys, header, c.shape));
  BP_ASSIGN(const double eps, keys.real_or("llama.attention.layer_norm_rms_epsilon", 1e-5));
  c.rms_norm_eps = static_cast<float>(eps);
  BP_TRY(read_rope(keys, header, c));
  BP_ASSIGN(c.max_position, keys.number("llama.context_length", UINT32_MAX));
  if (c.max_position == 0) return corrupt("llama.context_length", "0", "at least 1");
  BP_TRY(read_special_tokens(keys, c));
  BP_TRY(check_llama_tensors(c.shape, FileFormat::kGguf, header.tensors));
  return c;
}

}  // namespace bp::plan
