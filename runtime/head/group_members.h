// GroupMembers: who belongs to the group of one epoch, and who must not. Pure: no clock, no I/O.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "engine/base/epoch.h"
#include "engine/base/result.h"

namespace bp::rt {

struct JoinedRank {
  /// kLeaving: told that the group forms anew, has not said hello for that yet.
  enum class State { kMissing, kLeaving, kJoined, kLoading, kLoaded };
  State state = State::kMissing;
  bool welcomed = false;           // in this or an earlier generation
  std::string routing_id;
  v1::RankHello hello;
  uint64_t bytes_loaded = 0, bytes_total = 0;
  uint64_t lease_acked = 0;
  int64_t seen_ns = 0;             // CLOCK_MONOTONIC of its last message
};
const char* member_state_name(JoinedRank::State state);

class GroupMembers {
 public:
  /// `build_id`: what every rank must have.
  explicit GroupMembers(std::string build_id) : build_id_(std::move(build_id)) {}
  /// Nobody is there yet; generation 1.
  void expect(Epoch epoch, uint32_t ranks);
  /// The next generation: who is missing stays so, all others must say hello again.
  void regroup();
  /// Its place is free.
  void forget(uint32_t rank);

  enum class Verdict {
    kJoined,     // new in this generation
    kKnown,      // said hello before
    kLate,       // of a generation that is over: it will say hello again
    kReplaces,   // the member there is proven dead by the node of this one: forget it and ask again
    kRefused,    // must end; the group is unharmed
    kMisfit,     // must end, and the group cannot form: `reason` says what differs
  };
  struct Admission {
    Verdict verdict;
    std::string reason;
  };
  /// A hello of this group's epoch; `generation` as the rank knows it, 0 when it was never welcome.
  Admission admit(const std::string& routing_id, const v1::RankHello& hello, uint64_t generation);

  Epoch epoch() const { return epoch_; }
  uint64_t generation() const { return generation_; }
  std::vector<JoinedRank>& all() { return members_; }
  const std::vector<JoinedRank>& all() const { return members_; }
  /// By routing id; null for a stranger.
  JoinedRank* find(const std::string& routing_id);
  uint32_t count_at_least(JoinedRank::State state) const;
  bool all_at_least(JoinedRank::State state) const;
  /// "rank 3 (n7-1)"
  std::string label(uint32_t rank) const;

 private:
  std::string misfit(const v1::RankHello& hello) const;
  std::string build_id_;
  Epoch epoch_;
  uint64_t generation_ = 0;
  std::vector<JoinedRank> members_;   // by rank
};

}  // namespace bp::rt
