// The trace of a scheduler: every call and what came of it, in the form of sched.proto, so that what a
// scheduler did in production can be done again, step for step and bit for bit.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/sched/scheduler.h"

namespace bp::rt {

/// A scheduler that hands the trace of every call to `write`, until that returns false: from then on
/// nothing is recorded. `write` is called on the thread of the call.
std::unique_ptr<Scheduler> make_recorded_scheduler(const SchedulerOptions& options,
                                                   std::function<bool(std::string_view)> write);

struct ReplayReport {
  uint64_t calls = 0, steps = 0, updates = 0, refusals = 0;
  bool cut = false;  // the last record is not whole: its writer was killed
};
/// Does everything that `trace` says again. kCorruptData: not a trace (where); kConflict: a call gave
/// something else than when it was recorded (which).
Result<ReplayReport> replay_trace(std::string_view trace);

}  // namespace bp::rt
