// Conductor: the single writer. Applies events to runs through the core, writes what follows in one
// batch, and only when that is durable lets actions, timers and answers out. While a commit is
// under way, what else arrives is gathered into the next one (group commit).
//
// An error of the store ends everything: on_fatal is called once, nothing is applied or done after
// it. Thread: the executor's.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/core_v1/core.h"
#include "engine/shell/world.h"

namespace bp::shell {

/// Rides in the batch of an event.
struct Extra {
  std::vector<storage::Batch::SecretRow> secrets;
  std::map<std::string, std::string> meta;
};

class Conductor {
 public:
  struct Hooks {
    std::function<void(const core::Action&)> act;
    std::function<void(const std::vector<storage::TimerRow>& put,
                       const std::vector<storage::TimerRow>& drop)>
        timers;
    std::function<void(Status)> fatal;
  };
  Conductor(World& world, Hooks hooks);
  ~Conductor();

  /// Reads the live runs. Nothing is applied; recover() does that.
  Status load();
  /// Feeds DaemonStarted to each live run.
  void recover(const std::string& boot_id);

  /// Stamps, applies and journals `event` for a live run. `durable` runs when it is on record (also
  /// when it changed nothing). Error: the core refused it, or kNotFound.
  Status feed(const std::string& run_id, v1::Event event, std::function<void()> durable = {},
              Extra extra = {});
  /// Begins a new run; fills in run number, incarnation, boot id.
  Status submit(v1::RunSubmitted submitted, const std::string& boot_id,
                std::function<void()> durable, Extra extra);
  /// Writes secrets or meta that belong to no event.
  void write(Extra extra, std::function<void()> durable);
  /// Runs `call` when everything applied so far is durable: answers never show what may be lost.
  void after_durable(std::function<void()> call);

  /// A value written with Extra::meta; empty when there is none.
  std::string meta(const std::string& key) const;
  const core::RunState* find(const std::string& run_id) const;
  /// A live run by id or name.
  const core::RunState* find_live(const std::string& id_or_name) const;
  const std::map<std::string, core::RunState>& runs() const { return runs_; }
  /// Brings an ended run back into memory, for RetryRequested and StopRequested.
  Status revive(const std::string& run_id);
  /// Forgets an ended run; done once its RunEnded is durable.
  void forget(const std::string& run_id);
  void halt() { halted_ = true; }

 private:
  struct Unit;
  Status apply(core::RunState& run, v1::Event& event, std::function<void()> durable, Extra extra);
  void stamp(v1::Event& event) const;
  void kick();
  void on_committed(Status status);

  World& world_;
  Hooks hooks_;
  std::map<std::string, core::RunState> runs_;
  std::unique_ptr<Unit> pending_, in_flight_;
  std::map<std::string, std::string> meta_;
  uint64_t last_seq_ = 0, last_run_number_ = 0, incarnation_ = 1;
  bool halted_ = false, kicked_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bp::shell
