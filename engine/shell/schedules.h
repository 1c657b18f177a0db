// Schedules: runs that start by the wall clock. A schedule lies in the journal as one line of meta;
// it changes in the very commit that starts its run, under an idempotency key made of its name and
// the due time, so a due time starts one run however often the daemon dies around it.
//
// The wall clock may jump: what is due is looked at again at least every kLookMs. Due times that
// passed while nobody looked start nothing, but for the newest, if it is late by less than
// catch_up_ms. Thread: the executor's.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/cron/zone.h"
#include "engine/shell/conductor.h"

namespace bp::shell {

class Schedules {
 public:
  static constexpr int64_t kLookMs = 15'000;
  static constexpr size_t kSchedulesMax = 10'000;

  struct Hooks {
    /// What else the commit carries that starts the run of this id.
    using AddExtra = std::function<Extra(const std::string& run_id)>;
    /// Starts a run; its id. `schedule` goes on record, `extra` (may be empty) into its commit.
    std::function<Result<std::string>(const v1::NewRun& run, const std::string& schedule,
                                      const AddExtra& extra)>
        start;
    std::function<Status(const std::string& run_id, const std::string& why)> cancel;
  };
  Schedules(World& world, Conductor& conductor, Hooks hooks);
  ~Schedules();

  /// Reads them from the journal. kJournal names one that cannot be read. start() begins to look.
  Status load();
  void start();

  /// Sets or changes one. kInvalidArgument: name, cron, zone, or what it starts.
  Status put(v1::Schedule schedule, std::function<void(const v1::Schedule&)> durable);
  Status drop(const std::string& name, std::function<void()> durable);
  /// One run now, whatever the overlap policy says; its id. `request_key` makes it one.
  Result<std::string> trigger(const std::string& name, const std::string& request_key);
  /// All, or the one of that name. kNotFound.
  Result<std::vector<v1::Schedule>> list(const std::string& name) const;
  /// The next `n` due times of a schedule.
  Result<std::vector<int64_t>> upcoming(const std::string& name, uint32_t n) const;
  /// A run has ended: the one that waits for it may start.
  void run_ended(const std::string& run_id);

 private:
  struct Item {
    v1::Schedule schedule;
    cron::Expression expression;
    cron::Zone zone;
  };
  static Result<Item> make(v1::Schedule schedule);
  void look();
  void due(Item& item, int64_t now_wall_ms);
  void begin(Item& item, int64_t due_wall_ms);
  bool last_lives(const Item& item) const;
  void save(Item& item, Extra extra = {});

  World& world_;
  Conductor& conductor_;
  Hooks hooks_;
  std::map<std::string, Item> items_;
  Executor::TimerId timer_ = 0;
};

}  // namespace bp::shell
