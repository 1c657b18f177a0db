#include "runtime/kv/kv_cache.h"

#include <fmt/format.h>

#include <cstring>

namespace bp::rt {
namespace {

Error refused(const v1::StepSequence& s, const std::string& what) {
  return Error{ErrorCode::kInvalidArgument, fmt::format("sequence {}: {}", s.sequence_id(), what), {}};
}

}  // namespace

KvCache::KvCache(const KvShape& shape, std::span<std::byte> memory)
    : shape_(shape), memory_(memory), filled_(shape.blocks, 0) {
  BP_CHECK(memory.size() >= shape.size_bytes() && shape.block_tokens % 16 == 0);
}

Status KvCache::admit(const v1::StepSequence& s) {
  const uint64_t end = uint64_t(s.position()) + static_cast<uint64_t>(s.tokens_size());
  const uint64_t needed = (end + shape_.block_tokens - 1) / shape_.block_tokens;
  if (static_cast<uint64_t>(s.blocks_size()) < needed)
    return refused(s, fmt::format("blocks: found {}, expected {} for positions up to {}", s.blocks_size(), needed,
                                  end));
  for (const uint32_t b : s.blocks())
    if (b >= shape_.blocks) return refused(s, fmt::format("blocks: found {}, expected less than {}", b, shape_.blocks));
  for (uint64_t i = 0; i < needed; ++i) {
    const uint64_t first = i * shape_.block_tokens;
    uint32_t& filled = filled_[s.blocks(static_cast<int>(i))];
    const uint64_t must = std::min<uint64_t>(shape_.block_tokens, s.position() > first ? s.position() - first : 0);
    if (filled < must)
      return refused(s, fmt::format("position: found {}, expected at most {}: block {} holds no more", s.position(),
                                    first + filled, s.blocks(static_cast<int>(i))));
  }
  for (uint64_t i = s.position() / shape_.block_tokens; i < needed; ++i)
    filled_[s.blocks(static_cast<int>(i))] =
        static_cast<uint32_t>(std::min<uint64_t>(shape_.block_tokens, end - i * shape_.block_tokens));
  return {};
}

Status KvCache::copy(const v1::BlockCopy& c) {
  if (c.from() >= shape_.blocks || c.to() >= shape_.blocks || c.from() == c.to())
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("copies: found {} to {}, expected two blocks less than {}", c.from(), c.to(),
                             shape_.blocks),
                 {}};
  for (uint32_t l = 0; l < shape_.layers; ++l)
    for (uint32_t h = 0; h < shape_.kv_heads; ++h)
      std::memcpy(block(l, h, c.to()), block(l, h, c.from()), shape_.block_bytes());
  filled_[c.to()] = filled_[c.from()];
  return {};
}

std::byte* KvCache::block(uint32_t layer, uint32_t head, uint32_t block_id) const {
  const size_t i = (size_t(layer) * shape_.kv_heads + head) * shape_.blocks + block_id;
  return memory_.data() + i * shape_.block_bytes();
}

KvView KvCache::view(uint32_t layer, uint32_t head, const v1::StepSequence& sequence) const {
  KvView v;
  v.base = block(layer, head, 0);
  v.block_bytes = shape_.block_bytes();
  v.blocks = sequence.blocks().data();
  v.block_tokens = shape_.block_tokens;
  v.head_dim = shape_.head_dim;
  v.f16 = shape_.f16;
  return v;
}

}  // namespace bp::rt
