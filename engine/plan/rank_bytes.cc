#include "engine/plan/rank_bytes.h"

#include <string_view>
#include <unordered_map>

namespace bp::plan {
namespace {

using ByName = std::unordered_map<std::string_view, const TensorInfo*>;

/// Bytes of `part` of `whole` equal slices of a tensor, rounded up. __extension__: 128-bit
/// products.
uint64_t share(uint64_t bytes, uint64_t part, uint64_t whole) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((Wide{bytes} * part + whole - 1) / whole);
}

/// How many of how many slices of a role's tensor the rank holds.
struct Fraction {
  uint64_t part, whole;
};

Fraction held(const ModelShape& m, const RankShard& r, LlamaRole role) {
  switch (role) {
    case LlamaRole::kEmbedding:
      return {r.has_embedding ? r.vocab.size() : 0, m.vocab};
    case LlamaRole::kLmHead:
      return {r.has_lm_head ? r.vocab.size() : 0, m.vocab};
    case LlamaRole::kOutputNorm:
      return {r.has_lm_head ? 1u : 0u, 1};
    case LlamaRole::kAttnNorm:
    case LlamaRole::kFfnNorm:
      return {1, 1};
    case LlamaRole::kQ:
    case LlamaRole::kO:
      return {r.q_heads.size(), m.heads};
    case LlamaRole::kK:
    case LlamaRole::kV:
      return {r.kv_heads.size(), m.kv_heads};
    case LlamaRole::kGate:
    case LlamaRole::kUp:
    case LlamaRole::kDown:
      return {r.ffn.size(), m.intermediate};
  }
  return {0, 1};
}

uint64_t role_bytes(const ModelShape& m, const RankShard& r, FileFormat format,
                    const ByName& tensors, LlamaRole role, uint32_t layer) {
  const Fraction f = held(m, r, role);
  if (f.part == 0) return 0;
  auto it = tensors.find(llama_tensor_name(format, role, layer));
  if (it == tensors.end() && role == LlamaRole::kLmHead) {
    // Tied: the embedding's rows serve, held already by a rank of the first stage.
    if (r.has_embedding) return 0;
    it = tensors.find(llama_tensor_name(format, LlamaRole::kEmbedding));
  }
  return it == tensors.end() ? 0 : share(it->second->size_bytes, f.part, f.whole);
}

}  // namespace

std::vector<RankBytes> rank_bytes(const ShardPlan& plan, FileFormat format,
                                  const std::vector<TensorInfo>& tensors,
                                  uint32_t kv_element_bytes) {
  ByName by_name;
  for (const TensorInfo& t : tensors) by_name.emplace(t.name, &t);
  const ModelShape& m = plan.model;
  std::vector<RankBytes> out;
  for (const RankShard& r : plan.ranks) {
    RankBytes b;
    for (LlamaRole role : kModelRoles) b.weights += role_bytes(m, r, format, by_name, role, 0);
    for (uint32_t layer = r.layers.begin; layer < r.layers.end; ++layer) {
      for (LlamaRole role : kLayerRoles)
        b.weights += role_bytes(m, r, format, by_name, role, layer);
    }
    b.kv_per_token = 2ull * r.layers.size() * r.kv_heads.size() * m.head_dim * kv_element_bytes;
    const uint64_t per_token =
        4ull * m.hidden + 3ull * r.ffn.size() +
        uint64_t{m.head_dim} * (2 * r.q_heads.size() + 2 * r.kv_heads.size());
    b.buffers = 4ull * (kStepTokensMax * per_token + 64ull * (r.has_lm_head ? m.vocab : 0));
    out.push_back(b);
  }
  return out;
}

}  // namespace bp::plan
