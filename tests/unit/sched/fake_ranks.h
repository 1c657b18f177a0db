// Ranks that hold a token in every slot of every block, and a model whose next token is a hash of all
// tokens before it, read through the block table. A block that is shared by mistake, given away too
// early or copied from the wrong place therefore gives wrong tokens.
#pragma once
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <vector>

#include "runtime/sched/scheduler.h"

namespace bp::rt {

inline uint32_t fake_token(const std::vector<uint32_t>& history) {
  uint64_t h = 1469598103934665603ull;
  for (uint32_t t : history) h = (h ^ t) * 1099511628211ull;
  return static_cast<uint32_t>(h >> 33) % 50;
}

inline std::vector<uint32_t> expected_tokens(const SequenceRequest& r) {
  std::vector<uint32_t> history = r.prompt, out;
  while (out.size() < r.max_new_tokens) {
    uint32_t t = fake_token(history);
    out.push_back(t);
    history.push_back(t);
    if (std::find(r.stop_tokens.begin(), r.stop_tokens.end(), t) != r.stop_tokens.end()) break;
  }
  return out;
}

class FakeRanks {
 public:
  explicit FakeRanks(const SchedulerOptions& o)
      : options_(o), slots_(o.kv_blocks * o.kv_block_tokens, 0xffffffff) {}

  /// A new group that has the memory of the old one and begins with step `number`.
  void start_again(uint64_t number) { last_ = number - 1; }

  v1::StepResult execute(const v1::Step& step) {
    REQUIRE(step.number() == ++last_);
    copy(step);
    v1::StepResult result;
    result.set_number(step.number());
    std::map<uint32_t, uint64_t> written;  // block -> by whom
    std::set<uint64_t> ids;
    uint32_t tokens = 0;
    REQUIRE(static_cast<uint32_t>(step.sequences_size()) <= options_.max_sequences);
    for (const auto& s : step.sequences()) {
      REQUIRE(ids.insert(s.sequence_id()).second);
      tokens += static_cast<uint32_t>(s.tokens_size());
      write(s, written);
    }
    for (const auto& s : step.sequences()) {
      const std::vector<uint32_t> history = read(s, written);
      if (!s.sample()) continue;
      auto* token = result.add_tokens();
      token->set_sequence_id(s.sequence_id());
      token->set_token(fake_token(history));
    }
    REQUIRE(tokens <= options_.max_batch_tokens);
    return result;
  }

 private:
  uint32_t& slot(const v1::StepSequence& s, uint32_t position) {
    const uint32_t n = options_.kv_block_tokens;
    return slots_[s.blocks(static_cast<int>(position / n)) * n + position % n];
  }
  void copy(const v1::Step& step) {
    const auto n = static_cast<ptrdiff_t>(options_.kv_block_tokens);
    for (const auto& c : step.copies()) {
      REQUIRE((c.from() < options_.kv_blocks && c.to() < options_.kv_blocks && c.from() != c.to()));
      std::copy_n(slots_.begin() + c.from() * n, n, slots_.begin() + c.to() * n);
    }
  }
  void write(const v1::StepSequence& s, std::map<uint32_t, uint64_t>& written) {
    const uint32_t n = options_.kv_block_tokens;
    const uint32_t end = s.position() + static_cast<uint32_t>(s.tokens_size());
    REQUIRE(s.tokens_size() > 0);
    REQUIRE(static_cast<uint32_t>(s.blocks_size()) == (end + n - 1) / n);
    std::set<uint32_t> own;
    for (uint32_t b : s.blocks()) {
      REQUIRE(b < options_.kv_blocks);
      REQUIRE(own.insert(b).second);
    }
    for (uint32_t p = s.position(); p < end; ++p) {
      slot(s, p) = s.tokens(static_cast<int>(p - s.position()));
      const auto by = written.try_emplace(s.blocks(static_cast<int>(p / n)), s.sequence_id()).first;
      REQUIRE(by->second == s.sequence_id());  // two sequences write into one block
    }
  }
  std::vector<uint32_t> read(const v1::StepSequence& s, const std::map<uint32_t, uint64_t>& written) {
    for (uint32_t b : s.blocks()) {
      const auto by = written.find(b);
      REQUIRE((by == written.end() || by->second == s.sequence_id()));
    }
    std::vector<uint32_t> history;
    const uint32_t end = s.position() + static_cast<uint32_t>(s.tokens_size());
    for (uint32_t p = 0; p < end; ++p) history.push_back(slot(s, p));
    return history;
  }

  SchedulerOptions options_;
  std::vector<uint32_t> slots_;
  uint64_t last_ = 0;
};

}  // namespace bp::rt
