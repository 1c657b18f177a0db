// Dispatcher: decides when a queued attempt may start. It is asked for attempts in OWN, and for
// those in SHARED that could not start in the event that made them runnable (limits, no room, the
// daemon was paused).
//
// Attempts wait in lanes, one per set of limit keys and isolation; the one that has waited longest
// goes first, where a step of priority counts as kPriorityMs of waiting: a higher priority goes
// before, a lower one is never starved. A lane that is blocked by its limits holds up no other.
// A run's own keys are held from its first attempt to its end, a stage's while an attempt of it
// lives. Nothing here is durable: what is held follows from the runs. Thread: the executor's.
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/core/core.h"
#include "engine/shell/conductor.h"
#include "engine/shell/world.h"

namespace bp::shell {

class Dispatcher {
 public:
  static constexpr int64_t kPriorityMs = 10'000;
  static constexpr size_t kOwnMax = 256;  // processes at a time

  struct Hooks {
    std::function<void(const core::DispatchAttempt&)> admit;  // feed AttemptDispatched
    std::function<bool()> shared_has_room;
    std::function<size_t()> own_count;
  };
  Dispatcher(World& world, Conductor& conductor, Hooks hooks)
      : world_(world), conductor_(conductor), hooks_(std::move(hooks)) {}
  ~Dispatcher() { world_.executor.cancel(timer_); }

  /// Holds everything back until it is set to false.
  void pause(bool paused);
  bool paused() const { return paused_; }
  /// concurrency 0 and rate 0: no limit.
  void set_limit(const v1::Limit& limit);
  std::vector<v1::Limit> limits() const;

  /// Takes up the slots that live attempts hold: once, at start, before anything is dispatched.
  void start();
  void act(const core::DispatchAttempt& a);
  /// Something of this run has changed: slots whose attempt no longer lives are given back.
  void changed(const core::RunState& run);
  void ended(uint64_t run_number);
  /// Admits what may go; called when room may have come up.
  void pump();
  size_t waiting() const { return waiting_; }

 private:
  struct Item {
    core::DispatchAttempt attempt;
    std::vector<std::string> keys;
  };
  struct Lane {
    bool shared = false;
    std::multimap<int64_t, Item> items;  // by when it was queued, shifted by its priority
  };
  struct Key {
    v1::Limit limit;
    uint32_t in_use = 0;
    double tokens = 0;
    int64_t filled_boot_ms = 0;
  };
  struct Holding {
    std::set<std::string> of_run;
    std::vector<std::pair<uint64_t, std::vector<std::string>>> of_attempts;  // by epoch counter
  };
  bool take(const Item& item, int64_t now, int64_t* wait_ms);
  void hold(const core::RunState& run, const core::StageInstance& stage);
  void release(const std::string& key);
  void refill(Key& key, int64_t now) const;
  bool stale(const Item& item) const;
  void pump_soon(int64_t in_ms);

  World& world_;
  Conductor& conductor_;
  Hooks hooks_;
  std::map<std::string, Lane> lanes_;
  std::unordered_map<std::string, Key> keys_;
  std::unordered_map<uint64_t, Holding> holding_;
  size_t waiting_ = 0;
  bool paused_ = false, pumping_ = false;
  Executor::TimerId timer_ = 0;
};

}  // namespace bp::shell
