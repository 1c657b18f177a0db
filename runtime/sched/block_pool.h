// BlockPool: who holds which KV block, and which full blocks can be found by their tokens. A block is
// free (nothing worth keeping), cached (nobody holds it, but its tokens are known) or held by one or
// more. What a block holds is known by a content number that is never used again, and its name is
// (content of the block before it, its tokens), compared whole: two prompts share a block only if all
// tokens up to its end are equal. Pure; one thread.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

namespace bp::rt {

class BlockPool {
 public:
  static constexpr uint64_t kNoContent = 0;  // also the parent of a first block

  BlockPool(uint32_t blocks, uint32_t block_tokens);
  uint32_t available() const { return static_cast<uint32_t>(free_.size() + cached_.size()); }
  uint32_t size() const { return static_cast<uint32_t>(blocks_.size()); }

  /// A block for new tokens, held once: a free one, else the cached one that was not used longest.
  std::optional<uint32_t> take();
  void hold(uint32_t block);
  /// One holder less. Release the last block of a sequence first: it is forgotten before its elders.
  void release(uint32_t block);

  struct Found {
    uint32_t block = 0;
    uint64_t content = kNoContent;
  };
  /// The block that holds `tokens` (a whole block) behind `parent`; not held by this.
  std::optional<Found> find(uint64_t parent, std::span<const uint32_t> tokens) const;
  /// From now on `block`, which the caller holds, is found under these tokens. When another block holds
  /// the same, that one stays the one to be found. The content number, for the block behind it.
  uint64_t publish(uint32_t block, uint64_t parent, std::span<const uint32_t> tokens);
  /// Everything is free and nothing is known.
  void reset();
  uint32_t holders(uint32_t block) const { return blocks_[block].holders; }

 private:
  struct Name {
    uint64_t parent = kNoContent;
    std::vector<uint32_t> tokens;
    bool operator==(const Name&) const = default;
  };
  struct NameHash {
    size_t operator()(const Name& n) const;
  };
  struct Block {
    uint32_t holders = 0;
    uint64_t content = kNoContent;
    uint64_t idle_since = 0;  // key in cached_ while nobody holds it
    Name name;                // while it has content
  };
  void forget(uint32_t block);

  uint32_t block_tokens_;
  std::vector<Block> blocks_;
  std::vector<uint32_t> free_;            // taken from the back
  std::map<uint64_t, uint32_t> cached_;   // by when it was released
  std::unordered_map<Name, uint32_t, NameHash> by_name_;  // looked up, never walked
  uint64_t next_content_ = 1;
  uint64_t tick_ = 0;
};

}  // namespace bp::rt
