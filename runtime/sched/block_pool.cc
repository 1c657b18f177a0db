#include "runtime/sched/block_pool.h"

#include "engine/base/check.h"

namespace bp::rt {

size_t BlockPool::NameHash::operator()(const Name& n) const {
  uint64_t h = n.parent * 0x9e3779b97f4a7c15ull;
  for (const uint32_t t : n.tokens) {
    h = (h ^ t) * 0xbf58476d1ce4e5b9ull;
    h ^= h >> 29;
  }
  return h;
}

BlockPool::BlockPool(uint32_t blocks, uint32_t block_tokens) : block_tokens_(block_tokens), blocks_(blocks) {
  reset();
}

void BlockPool::reset() {
  free_.clear();
  cached_.clear();
  by_name_.clear();
  for (auto b = static_cast<uint32_t>(blocks_.size()); b > 0; --b) {
    blocks_[b - 1] = Block{};
    free_.push_back(b - 1);
  }
}

void BlockPool::forget(uint32_t block) {
  Block& b = blocks_[block];
  by_name_.erase(b.name);
  b.name = {};
  b.content = kNoContent;
}

std::optional<uint32_t> BlockPool::take() {
  uint32_t block = 0;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (!cached_.empty()) {
    block = cached_.begin()->second;
    cached_.erase(cached_.begin());
    forget(block);
  } else {
    return std::nullopt;
  }
  blocks_[block].holders = 1;
  return block;
}

void BlockPool::hold(uint32_t block) {
  Block& b = blocks_[block];
  if (b.holders++ > 0) return;
  BP_CHECK(b.content != kNoContent);  // a free block is taken, not held
  cached_.erase(b.idle_since);
}

void BlockPool::release(uint32_t block) {
  Block& b = blocks_[block];
  BP_CHECK(b.holders > 0);
  if (--b.holders > 0) return;
  if (b.content == kNoContent) {
    free_.push_back(block);
    return;
  }
  b.idle_since = ++tick_;
  cached_[b.idle_since] = block;
}

std::optional<BlockPool::Found> BlockPool::find(uint64_t parent, std::span<const uint32_t> tokens) const {
  const auto found = by_name_.find(Name{parent, {tokens.begin(), tokens.end()}});
  if (found == by_name_.end()) return std::nullopt;
  return Found{found->second, blocks_[found->second].content};
}

uint64_t BlockPool::publish(uint32_t block, uint64_t parent, std::span<const uint32_t> tokens) {
  BP_CHECK(tokens.size() == block_tokens_);
  Block& b = blocks_[block];
  BP_CHECK(b.holders > 0 && b.content == kNoContent);
  Name name{parent, {tokens.begin(), tokens.end()}};
  const auto [at, fresh] = by_name_.try_emplace(name, block);
  if (!fresh) return blocks_[at->second].content;
  b.name = std::move(name);
  b.content = next_content_++;
  return b.content;
}

}  // namespace bp::rt
