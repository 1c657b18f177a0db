#include "engine/plan/llama_tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <unordered_map>

namespace bp::plan {
namespace {

struct Names {
  const char* gguf;
  const char* safetensors;
};

Names names_of(LlamaRole role) {
  switch (role) {
    case LlamaRole::kEmbedding:
      return {"token_embd", "model.embed_tokens"};
    case LlamaRole::kOutputNorm:
      return {"output_norm", "model.norm"};
    case LlamaRole::kLmHead:
      return {"output", "lm_head"};
    case LlamaRole::kAttnNorm:
      return {"attn_norm", "input_layernorm"};
    case LlamaRole::kQ:
      return {"attn_q", "self_attn.q_proj"};
    case LlamaRole::kK:
      return {"attn_k", "self_attn.k_proj"};
    case LlamaRole::kV:
      return {"attn_v", "self_attn.v_proj"};
    case LlamaRole::kO:
      return {"attn_output", "self_attn.o_proj"};
    case LlamaRole::kFfnNorm:
      return {"ffn_norm", "post_attention_layernorm"};
    case LlamaRole::kGate:
      return {"ffn_gate", "mlp.gate_proj"};
    case LlamaRole::kUp:
      return {"ffn_up", "mlp.up_proj"};
    case LlamaRole::kDown:
      return {"ffn_down", "mlp.down_proj"};
  }
  return {"", ""};
}

/// Tensors that may lie beside those of the model: tables that RoPE computes from the config
/// itself, and GGUF's frequency factors, which the config names.
bool harmless_extra(std::string_view name) {
  constexpr std::string_view kInvFreq = ".rotary_emb.inv_freq";
  return name == "rope_freqs.weight" ||
         (name.size() > kInvFreq.size() && name.substr(name.size() - kInvFreq.size()) == kInvFreq);
}

using ByName = std::unordered_map<std::string_view, const TensorInfo*>;

Status check_one(const ModelShape& shape, LlamaRole role, const std::string& name, ByName& left) {
  auto it = left.find(name);
  if (it == left.end()) {
    return Error{
        ErrorCode::kCorruptData, fmt::format("tensor {}: found none, expected one", name), {}};
  }
  const std::vector<uint64_t> expected = llama_tensor_shape(shape, role);
  if (it->second->shape != expected) {
    return Error{ErrorCode::kCorruptData,
                 fmt::format("tensor {}: found shape [{}], expected [{}] by the model's config",
                             name, fmt::join(it->second->shape, ", "), fmt::join(expected, ", ")),
                 {}};
  }
  left.erase(it);
  return {};
}

}  // namespace

std::string llama_tensor_name(FileFormat format, LlamaRole role, uint32_t layer) {
  const Names n = names_of(role);
  const bool of_model = role <= LlamaRole::kLmHead;
  if (format == FileFormat::kGguf) {
    return of_model ? fmt::format("{}.weight", n.gguf)
                    : fmt::format("blk.{}.{}.weight", layer, n.gguf);
  }
  return of_model ? fmt::format("{}.weight", n.safetensors)
                  : fmt::format("model.layers.{}.{}.weight", layer, n.safetensors);
}

std::vector<uint64_t> llama_tensor_shape(const ModelShape& s, LlamaRole role) {
  const uint64_t q = uint64_t{s.heads} * s.head_dim, kv = uint64_t{s.kv_heads} * s.head_dim;
  switch (role) {
    case LlamaRole::kEmbedding:
    case LlamaRole::kLmHead:
      return {s.vocab, s.hidden};
    case LlamaRole::kOutputNorm:
    case LlamaRole::kAttnNorm:
    case LlamaRole::kFfnNorm:
      return {s.hidden};
    case LlamaRole::kQ:
      return {q, s.hidden};
    case LlamaRole::kK:
    case LlamaRole::kV:
      return {kv, s.hidden};
    case LlamaRole::kO:
      return {s.hidden, q};
    case LlamaRole::kGate:
    case LlamaRole::kUp:
      return {s.intermediate, s.hidden};
    case LlamaRole::kDown:
      return {s.hidden, s.intermediate};
  }
  return {};
}

Status check_llama_tensors(const ModelShape& shape, FileFormat format,
                           const std::vector<TensorInfo>& tensors) {
  ByName left;
  for (const TensorInfo& t : tensors) {
    if (!left.emplace(t.name, &t).second) {
      return Error{ErrorCode::kCorruptData,
                   fmt::format("tensor {}: found twice, expected once", t.name),
                   {}};
    }
  }
  for (LlamaRole role : kModelRoles) {
    const std::string name = llama_tensor_name(format, role);
    // A tied model may still carry its copy of the embedding.
    if (role == LlamaRole::kLmHead && shape.tied_embedding && !left.count(name)) continue;
    BP_TRY(check_one(shape, role, name, left));
  }
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    for (LlamaRole role : kLayerRoles) {
      BP_TRY(check_one(shape, role, llama_tensor_name(format, role, layer), left));
    }
  }
  for (const auto& [name, tensor] : left) {
    if (!harmless_extra(name)) {
      return Error{
          ErrorCode::kUnsupported,
          fmt::format(
              "tensor {}: found one that a plain Llama model does not have (biases, experts "
              "and adapters are not computed)",
              name),
          {}};
    }
  }
  return {};
}

}  // namespace bp::plan
