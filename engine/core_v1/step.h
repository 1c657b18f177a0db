// Step: one application of one event: the state being changed, and what has been decided so far.
// Private to the core. The event families (one .cc each) are free functions over a Step.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/core_v1/core.h"

namespace bp::core_v1 {

class Step {
 public:
  Step(RunState& state, const v1::Event& the_event)
      : run(state), event(the_event), record(the_event) {}

  RunState& run;
  const v1::Event& event;
  v1::Event record;  // what is journalled: the event itself, or EndedWasLate in its place
  Outcome out;

  StageInstance* find(const std::string& stage, uint32_t map_index);
  StageInstance& stage(const StageKey& key);
  const v1::StageDefinition& definition(const StageKey& key) const;
  /// Marks the run as changed; touch() also the stage.
  void change() { out.changed = true; }
  void touch(const StageKey& key) {
    change();
    touched_.insert(key);
  }
  void set_state(const StageKey& key, v1::StageState state);
  void act(Action action) { out.actions.push_back(std::move(action)); }

  void arm(const StageKey& key, v1::TimerKind kind, int64_t delay_ms);
  void put_timer(const storage::TimerRow& row);
  void disarm(const StageKey& key, v1::TimerKind kind);
  void disarm_all(const StageKey& key);
  /// All but TOTAL, which covers every attempt of a generation together.
  void disarm_attempt(const StageKey& key);

  /// Encodes what was touched. Call once, last.
  Outcome finish();

 private:
  std::set<StageKey> touched_;
  std::map<TimerKey, std::optional<storage::TimerRow>> timers_;
};

/// Deterministic bytes: equal messages are equal bytes.
std::string serialize(const google::protobuf::MessageLite& message);
v1::ErrorInfo make_error(ErrorCode code, std::string message);

// graph.cc: edges by stage name, from the definition.
std::set<std::string> successors(const v1::WorkflowDefinition& workflow, const std::string& stage);
bool any_live(const RunState& run, const std::set<std::string>& stages);
/// Keys in the order of the definition, then by map index.
std::vector<StageKey> ordered_keys(const RunState& run);

// schedule.cc
void queue_attempt(Step& step, const StageKey& key);
DispatchAttempt dispatch_action(const RunState& run, const StageKey& key);
/// Queues whatever may run now, and moves the run's own state. Every family ends with it.
void schedule(Step& step);

// failure.cc
void attempt_failed(Step& step, const StageKey& key, v1::ErrorInfo error, bool retriable);
void fail_for_good(Step& step, const StageKey& key, v1::ErrorInfo error);
void cancel_attempt(Step& step, const StageKey& key, v1::AfterCancel after,
                    const std::string& reason, int64_t grace_ms);

// rewind.cc
void rewind(Step& step, const StageKey& reporter, const v1::AttemptEnded& ended);

// teardown.cc
void begin_teardown(Step& step, v1::RunState outcome);
void advance_teardown(Step& step);
/// The stage's applying is over in this teardown: what it made is destroyed in its turn.
void halt_stage(Step& step, const StageKey& key);
void destroy_gave_up(Step& step, const StageKey& key, v1::ErrorInfo error,
                     std::vector<std::string> survivors);
void end_run(Step& step, v1::RunState state);

// One per event family.
void on_submitted(Step& step, const v1::RunSubmitted& e);
void on_dispatched(Step& step, const v1::AttemptDispatched& e);
void on_host_started(Step& step, const v1::AttemptHostStarted& e);
void on_checkpointed(Step& step, const v1::AttemptCheckpointed& e);
void on_ready(Step& step, const v1::AttemptBecameReady& e);
void on_ended(Step& step, const v1::AttemptEnded& e);
void on_ended_was_late(Step& step, const v1::EndedWasLate& e);  // in a replay
void on_lost(Step& step, const v1::AttemptLost& e);
void on_timer(Step& step, const v1::TimerFired& e);
void on_cancel(Step& step, const v1::CancelRequested& e);
void on_stop(Step& step, const v1::StopRequested& e);
void on_retry(Step& step, const v1::RetryRequested& e);
void on_daemon_started(Step& step, const v1::DaemonStarted& e);

}  // namespace bp::core_v1
