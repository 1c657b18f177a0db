// RankProgram: the life of one rank. Says hello until it is welcome, forms its groups, loads its slice,
// executes steps in order, keeps its lease, and ends when told, when its group breaks, or when the head is
// silent for longer than the lease.
//
// Two threads: the caller's owns the socket, the lease and every decision to end; the stream's forms the
// groups, loads and executes. The second tells the first through a queue and never touches the socket.
#pragma once
#include <memory>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"
#include "runtime/rank/rank_config.h"
#include "runtime/rank/rank_model.h"

namespace bp::rt {

struct RankTimes {
  int64_t welcome_ms = 60'000;   // from the first hello: other ranks may start late
  int64_t form_ms = 10'000;      // for the groups to come together
};

/// Runs until the rank must end. Returns its exit status (exit_codes.h); work on the stream may still be
/// under way then: the caller must leave with _exit.
int run_rank(const v1::RankConfig& config, const RankFds& fds, RankModel& model, const RankTimes& times);

}  // namespace bp::rt
