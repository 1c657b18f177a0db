// A run as it was: its history applied again through the pure core, up to an event or a moment.
// Thread: the executor's.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/core/core.h"
#include "storage/journal.h"

namespace bp::shell {

struct Moment {
  uint64_t event = 0;   // after that event; 0: see wall_ms
  int64_t wall_ms = 0;  // after the last event not later than that; 0: the end
};

/// Applies `history` (of one run, from its first event) up to `moment`. kNotFound: the run did not
/// exist then, or has no such event; kJournal: an entry cannot be read, or was erased.
Result<core::RunState> state_at(const std::vector<storage::Entry>& history, Moment moment,
                                core::Workflows& workflows);

/// Applies it to the end and compares with `now`. Empty when they are equal, else what differs.
std::string replay_difference(const std::vector<storage::Entry>& history, const core::RunState& now,
                              core::Workflows& workflows);

}  // namespace bp::shell
