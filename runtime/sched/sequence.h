// What the scheduler knows of a sequence and of a step under way. Internal to runtime/sched.
#pragma once
#include <compare>
#include <cstdint>
#include <vector>

#include "runtime/sched/scheduler.h"

namespace bp::rt {

struct Sequence {
  SequenceRequest request;
  uint64_t arrival = 0;
  int64_t arrived_ns = 0;
  uint64_t cost = 0;               // as the queue counts it
  std::vector<uint32_t> history;   // prompt and final tokens
  std::vector<uint32_t> blocks;    // each held once by this sequence
  std::vector<uint64_t> contents;  // of its full blocks, as far as they are published
  uint32_t scheduled = 0;          // tokens of the history whose keys and values are there or in a step
  uint32_t sent = 0;               // those of them that steps given out hold
  uint64_t draft = 0;              // the last step made that has it
  uint32_t under_way = 0;          // uncommitted steps that use its blocks
  bool sampling = false;           // one of them samples
  bool ended = false;              // nobody waits for its tokens any more
  bool rebuilt = false;            // was running when the group was lost

  uint32_t generated() const {
    return static_cast<uint32_t>(history.size() - request.prompt.size());
  }
  uint32_t remaining() const { return static_cast<uint32_t>(history.size()) - scheduled; }
};

/// A place in the order; less goes first. Those of one `turn` and `priority` share by tenant.
struct Rank {
  uint8_t turn = 0;  // 0 rebuilt, 1 has lost patience, 2 all others
  int32_t priority = 0;
  uint64_t had = 0;  // by its tenant; 0 where tenants do not count
  uint64_t order = 0;
  auto operator<=>(const Rank&) const = default;
  /// Before the other whatever tenants and arrival say.
  bool outranks(const Rank& other) const {
    return turn != other.turn ? turn < other.turn : priority < other.priority;
  }
};

struct SentStep {
  struct Part {
    uint64_t arrival;
    bool sample;
  };
  uint64_t number = 0;
  std::vector<Part> parts;
  std::vector<uint32_t> held;  // blocks that its copies read
  uint32_t tokens = 0;
  int64_t sent_ns = 0;
};

}  // namespace bp::rt
