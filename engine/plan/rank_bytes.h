// Bytes that a rank needs: weights, KV cache, buffers. Estimates before anything is loaded. Pure.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/plan/llama_tensors.h"
#include "engine/plan/model_header.h"
#include "engine/plan/shard_plan.h"

namespace bp::plan {

/// Tokens of one step that buffers are made for.
inline constexpr uint32_t kStepTokensMax = 512;

struct RankBytes {
  uint64_t weights = 0;       // as they lie in the file
  uint64_t kv_per_token = 0;  // keys and values of every layer of the rank
  uint64_t buffers = 0;       // activations of kStepTokensMax tokens, logits of 64
};

/// `kv_element_bytes`: 4 on the CPU (F32), 2 on a GPU. By rank.
std::vector<RankBytes> rank_bytes(const ShardPlan& plan, FileFormat format,
                                  const std::vector<TensorInfo>& tensors,
                                  uint32_t kv_element_bytes);

}  // namespace bp::plan
