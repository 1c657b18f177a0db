// RunTimers: when each run is due next. A heap with one entry per run, whatever number of timers
// the run has: putting, moving and removing cost O(log n) and no allocation, 100,000 of them 3 MB.
// One timer of the executor wakes it. Thread: the executor's.
#pragma once
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "engine/shell/world.h"

namespace bp::shell {

class RunTimers {
 public:
  /// `due` is called with the number of each run whose time has come; it is removed before.
  RunTimers(World& world, std::function<void(uint64_t run_number)> due)
      : world_(world), due_(std::move(due)) {}
  ~RunTimers() { world_.executor.cancel(timer_); }

  /// Replaces what was set for this run.
  void set(uint64_t run_number, int64_t due_boot_ms);
  void remove(uint64_t run_number);
  size_t size() const { return heap_.size(); }

 private:
  struct Entry {
    int64_t due_boot_ms;
    uint64_t run_number;
  };
  void place(size_t at, Entry entry);
  void sift(size_t at);
  void arm();
  void fire();

  World& world_;
  std::function<void(uint64_t)> due_;
  std::vector<Entry> heap_;
  std::unordered_map<uint64_t, size_t> where_;  // run number -> place in the heap
  Executor::TimerId timer_ = 0;
  int64_t armed_for_ = 0;
};

}  // namespace bp::shell
