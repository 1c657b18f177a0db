// KvCache: keys and values of past tokens in blocks, in memory given from outside. Laid out per layer and
// head, [layer][KV head][block][K | V], so that every cut by layers or heads is a cut of the bytes.
// Also remembers how many tokens each block holds, so that a step which reads what was never written is
// refused. One thread.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"
#include "engine/plan/shard_plan.h"
#include "runtime/ops/ops.h"

namespace bp::rt {

struct KvShape {
  uint32_t layers = 0;         // of this rank
  uint32_t kv_heads = 0;       // of this rank
  uint32_t head_dim = 0;
  uint32_t block_tokens = 16;  // multiple of 16
  uint32_t blocks = 0;
  bool f16 = true;

  size_t block_bytes() const { return size_t(2) * block_tokens * head_dim * (f16 ? 2 : 4); }
  uint64_t size_bytes() const { return uint64_t(layers) * kv_heads * blocks * block_bytes(); }
};

class KvCache {
 public:
  KvCache(const KvShape& shape, std::span<std::byte> memory);
  /// Checks a sequence of a step and notes its tokens as written. kInvalidArgument names field, found,
  /// expected: block out of range, too few blocks, position behind tokens that no step wrote.
  Status admit(const v1::StepSequence& sequence);
  /// Copies a whole block in every layer and head. kInvalidArgument: a block out of range, or onto itself.
  Status copy(const v1::BlockCopy& copy);
  /// Every block counts as full: the memory holds what an earlier process wrote.
  void trust() { filled_.assign(filled_.size(), shape_.block_tokens); }
  /// One layer and head (both counted within this rank) as `sequence` sees it.
  KvView view(uint32_t layer, uint32_t head, const v1::StepSequence& sequence) const;
  std::byte* block(uint32_t layer, uint32_t head, uint32_t block_id) const;
  const KvShape& shape() const { return shape_; }

 private:
  KvShape shape_;
  std::span<std::byte> memory_;
  std::vector<uint32_t> filled_;   // by block id
};

}  // namespace bp::rt
