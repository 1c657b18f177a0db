#include "engine/shell/run_timers.h"

#include <algorithm>

namespace bp::shell {
namespace {
constexpr size_t kFiredPerTurn = 1'000;  // the rest after other work had its turn
}

void RunTimers::place(size_t at, Entry entry) {
  heap_[at] = entry;
  where_[entry.run_number] = at;
}

// Moves the entry at `at` to where it belongs.
void RunTimers::sift(size_t at) {
  const Entry entry = heap_[at];
  for (; at > 0; at = (at - 1) / 2) {
    const size_t up = (at - 1) / 2;
    if (heap_[up].due_boot_ms <= entry.due_boot_ms) break;
    place(at, heap_[up]);
  }
  for (;;) {
    size_t down = 2 * at + 1;
    if (down >= heap_.size()) break;
    if (down + 1 < heap_.size() && heap_[down + 1].due_boot_ms < heap_[down].due_boot_ms) ++down;
    if (heap_[down].due_boot_ms >= entry.due_boot_ms) break;
    place(at, heap_[down]);
    at = down;
  }
  place(at, entry);
}

void RunTimers::set(uint64_t run_number, int64_t due_boot_ms) {
  auto it = where_.find(run_number);
  if (it != where_.end()) {
    if (heap_[it->second].due_boot_ms == due_boot_ms) return;
    heap_[it->second].due_boot_ms = due_boot_ms;
    sift(it->second);
  } else {
    heap_.push_back({due_boot_ms, run_number});
    sift(heap_.size() - 1);
  }
  arm();
}

void RunTimers::remove(uint64_t run_number) {
  auto it = where_.find(run_number);
  if (it == where_.end()) return;
  const size_t at = it->second;
  where_.erase(it);
  const Entry last = heap_.back();
  heap_.pop_back();
  if (at == heap_.size()) return;
  heap_[at] = last;
  sift(at);
}

// An executor's timer that comes too early does no harm, one that comes too late would.
void RunTimers::arm() {
  if (heap_.empty() || (timer_ && armed_for_ <= heap_[0].due_boot_ms)) return;
  world_.executor.cancel(timer_);
  armed_for_ = heap_[0].due_boot_ms;
  const int64_t left = std::max<int64_t>(0, armed_for_ - world_.clock.boot_ms());
  timer_ = world_.executor.after(left, [this] { fire(); });
}

void RunTimers::fire() {
  timer_ = 0;
  const int64_t now = world_.clock.boot_ms();
  for (size_t i = 0; i < kFiredPerTurn && !heap_.empty() && heap_[0].due_boot_ms <= now; ++i) {
    const uint64_t run_number = heap_[0].run_number;
    remove(run_number);
    due_(run_number);
  }
  arm();
}

}  // namespace bp::shell
