// Names and shapes of the tensors of a Llama model in both file formats. Pure.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/plan/model_header.h"

namespace bp::plan {

enum class FileFormat : uint8_t { kGguf, kSafetensors };

/// What a tensor does. The first three are of the model, the others of a layer.
enum class LlamaRole : uint8_t {
  kEmbedding,
  kOutputNorm,
  kLmHead,
  kAttnNorm,
  kQ,
  kK,
  kV,
  kO,
  kFfnNorm,
  kGate,
  kUp,
  kDown
};
inline constexpr LlamaRole kModelRoles[] = {LlamaRole::kEmbedding, LlamaRole::kOutputNorm,
                                            LlamaRole::kLmHead};
inline constexpr LlamaRole kLayerRoles[] = {
    LlamaRole::kAttnNorm, LlamaRole::kQ,    LlamaRole::kK,  LlamaRole::kV,   LlamaRole::kO,
    LlamaRole::kFfnNorm,  LlamaRole::kGate, LlamaRole::kUp, LlamaRole::kDown};

/// "blk.3.attn_q.weight" or "model.layers.3.self_attn.q_proj.weight"; `layer` counts for layer
/// roles only.
std::string llama_tensor_name(FileFormat format, LlamaRole role, uint32_t layer = 0);

/// [out, in], or [hidden] for norms. Source: transformers' LlamaForCausalLM.
std::vector<uint64_t> llama_tensor_shape(const ModelShape& shape, LlamaRole role);

/// Every tensor that the model needs is there, with the shape that `shape` says, and none that
/// would change the result (biases, experts). kCorruptData names the tensor; kUnsupported an extra
/// one.
Status check_llama_tensors(const ModelShape& shape, FileFormat format,
                           const std::vector<TensorInfo>& tensors);

}  // namespace bp::plan
