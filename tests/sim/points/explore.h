// Explorer: runs one history, and at every operation of the daemon's disk leaves it to forked copies
// of this process to die there, each with another tail, to start again and to finish.
//
// A crash point counts once per (history, operation, kind of tail). Tails that leave the same bytes
// at the same moment of the history are tried once and counted each: what follows is the same.
#pragma once
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/points/script.h"

namespace bp::sim {

struct Plan {
  uint64_t points = 20'000;     // stop when so many were tried
  uint64_t second_of = 4;       // one of so many points gets a second crash later
  uint64_t allocations = 12;    // points a history where an allocation fails
  uint64_t seconds = 0;         // stop after so long; 0: no limit
  std::optional<uint64_t> only; // number of the one point to try
};

struct Tally {
  uint64_t histories = 0, points = 0, tried = 0, pairs = 0, allocations = 0, terminated = 0;
  uint64_t lost = 0, duplicate = 0, broken = 0;
  uint64_t by_kind[6] = {};  // Tail, then EIO, then ENOSPC
};

struct Failure {
  Recipe recipe;
  uint64_t point = 0;  // number within the history
  std::string where;   // "operation 412 (write), tail torn"
  Fault fault = Fault::kNone;
  std::string text;
};

/// All points of one history. Stops at the first failure.
std::optional<Failure> explore(const Recipe& recipe, const Plan& plan, Tally& tally);
/// A smaller recipe that fails in the same way.
Failure shrink(Failure failure, const Plan& plan);

}  // namespace bp::sim
