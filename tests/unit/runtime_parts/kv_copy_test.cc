// Copies of KV blocks: whole blocks in every layer and head, and what they hold counts as written.
#include <catch2/catch.hpp>

#include "runtime/kv/kv_cache.h"

namespace bp::rt {
namespace {

v1::StepSequence sequence(uint32_t position, uint32_t tokens, std::vector<uint32_t> blocks) {
  v1::StepSequence s;
  s.set_position(position);
  for (uint32_t t = 0; t < tokens; ++t) s.add_tokens(t);
  for (const uint32_t b : blocks) s.add_blocks(b);
  return s;
}

v1::BlockCopy copy_of(uint32_t from, uint32_t to) {
  v1::BlockCopy c;
  c.set_from(from);
  c.set_to(to);
  return c;
}

}  // namespace

TEST_CASE("a copied block has the bytes and the tokens of its origin", "[kv]") {
  const KvShape shape{2, 3, 8, 16, 4, true};
  std::vector<std::byte> memory(shape.size_bytes());
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 131 >> 3);
  KvCache kv(shape, memory);
  REQUIRE(kv.admit(sequence(0, 7, {1})).ok());
  CHECK(!kv.admit(sequence(7, 1, {2})).ok());   // block 2 holds nothing yet
  REQUIRE(kv.copy(copy_of(1, 2)).ok());
  for (uint32_t l = 0; l < shape.layers; ++l)
    for (uint32_t h = 0; h < shape.kv_heads; ++h)
      CHECK(std::equal(kv.block(l, h, 1), kv.block(l, h, 1) + shape.block_bytes(), kv.block(l, h, 2)));
  CHECK(kv.admit(sequence(7, 1, {2})).ok());
  CHECK(!kv.admit(sequence(9, 1, {2})).ok());   // 8 are in it
  CHECK(kv.copy(copy_of(1, 4)).error().code == ErrorCode::kInvalidArgument);
  CHECK(kv.copy(copy_of(4, 1)).error().code == ErrorCode::kInvalidArgument);
  CHECK(kv.copy(copy_of(1, 1)).error().code == ErrorCode::kInvalidArgument);
}

}  // namespace bp::rt
