// Step: one application of one event: the state being changed, and what has been decided so far.
// Private to the core. The event families (one .cc each) are free functions over a Step.
//
// Undo: a Step keeps a copy of every part before its first change, so that a Fault leaves no trace.
// Parts are therefore reached through stage(), rare(), timers and the like, never around them.
#pragma once
#include <boost/container/small_vector.hpp>
#include <optional>

#include "engine/core/core.h"

namespace bp::core {

[[noreturn]] void fault(const char* file, int line, const char* expr);
#define CORE_CHECK(expr) \
  (static_cast<bool>(expr) ? (void)0 : ::bp::core::fault(__FILE__, __LINE__, #expr))

class Step {
 public:
  Step(RunState& state, v1::Event& the_event, Workflows& all);
  /// Takes back everything. Call when a Fault is caught.
  void undo();

  RunState& run;
  v1::Event& event;
  Workflows& workflows;
  Outcome out;

  const StageInstance* find(const std::string& stage, uint32_t map_index) const {
    return run.find(stage, map_index);
  }
  const StageInstance& peek(StageKey key) const;
  /// For changing it; marks the run as changed. Valid until instances are added or removed.
  StageInstance& stage(StageKey key);
  StageInstance::Rare& rare(StageKey key) { return stage(key).rare.make(); }
  RunState::Rare& rare();
  const v1::StageDefinition& definition(StageKey key) const { return run.definition(key); }
  void change() { out.changed = true; }
  void set_state(StageKey key, v1::StageState state) { stage(key).state = state; }
  void act(Action action);
  void refuse(ErrorCode code, std::string message, std::string remedy = {});
  bool refused() const { return !out.accepted.ok(); }

  void arm(StageKey key, v1::TimerKind kind, int64_t delay_ms);
  void disarm(StageKey key, v1::TimerKind kind);
  void disarm_all(StageKey key);
  /// All but TOTAL, which covers every attempt of a generation together.
  void disarm_attempt(StageKey key);
  void disarm_everything();
  std::vector<Timer>& timers();
  std::vector<std::pair<std::string, std::string>>& labels();

  /// Before instances are added, removed or moved, or the workflow is replaced.
  std::vector<StageInstance>& all_stages();
  void insert_stage(StageInstance instance);

  /// Counts the event and fills `record`. Call once, last.
  Outcome finish();

 private:
  struct Before {  // parts as they were
    boost::container::small_vector<StageInstance, 3> stages;
    std::optional<std::vector<StageInstance>> all_stages;
    std::optional<std::vector<Timer>> timers;
    std::optional<Box<RunState::Rare>> rare;
    std::optional<std::vector<std::pair<std::string, std::string>>> labels;
  };
  RunState::Numbers numbers_;
  Workflow::Ptr workflow_;
  std::shared_ptr<const Submitted> submitted_;
  std::shared_ptr<const Pins> pins_;
  Before before_;
  bool was_ended_ = false;
};

v1::RunState visible_state(const RunState::Numbers& n);
/// Deterministic bytes: equal messages are equal bytes.
std::string serialize(const google::protobuf::MessageLite& message);
v1::ErrorInfo make_error(ErrorCode code, std::string message);
inline v1::Epoch to_wire(const Epoch& e) {
  v1::Epoch out;
  out.set_incarnation(e.incarnation);
  out.set_counter(e.counter);
  return out;
}
inline bool same(const Epoch& a, const v1::Epoch& b) {
  return a.counter == b.counter() && a.incarnation == b.incarnation();
}

/// What one pass over the instances tells of each stage.
struct StageSummary {
  uint32_t active = 0;       // QUEUED, BACKOFF or living instances
  uint32_t pending = 0, resting = 0;  // of the list: PENDING, all others
  bool expanded = true;      // no instance waits for its list
  bool live = false;         // an attempt lives
  bool through = true;       // every instance succeeded or is ready
  bool destroy_over = true;  // nothing left to destroy
};
using Summaries = boost::container::small_vector<StageSummary, 16>;
Summaries summarize(const RunState& run);

// schedule.cc
void queue_attempt(Step& step, StageKey key);
DispatchAttempt dispatch_action(const RunState& run, StageKey key);
const std::string& plugin_of(const RunState& run, StageKey key);
uint32_t plugin_version_of(const RunState& run, StageKey key);
/// Queues whatever may run now, and moves the run's own state. Every family ends with it.
void schedule(Step& step);

// waits.cc: stages without a plugin.
void begin_wait(Step& step, StageKey key);
void wait_over(Step& step, StageKey key, ValuesPtr outputs);

// values.cc
ValuesPtr to_values(const google::protobuf::Map<std::string, std::string>& inlined,
                    const google::protobuf::Map<std::string, std::string>& blobs);
/// Bytes of a binding; nullopt: missing. Error: it lies beside the log and cannot be read here.
struct Bound {
  std::string bytes;
  bool is_blob = false;
};
Result<std::optional<Bound>> resolve(const RunState& run, const v1::Binding& binding);
Status check_inputs(const RunState& run, StageKey key);

bool expand(Step& step, StageIndex stage);  // map.cc: its instances; false: it has failed

// failure.cc
void attempt_failed(Step& step, StageKey key, v1::ErrorInfo error, bool retriable);
void fail_for_good(Step& step, StageKey key, v1::ErrorInfo error);
void cancel_attempt(Step& step, StageKey key, v1::AfterCancel after, const std::string& reason,
                    int64_t grace_ms);
void fail_run(Step& step, v1::ErrorInfo error);

// rewind.cc
void rewind(Step& step, StageKey reporter, const v1::AttemptEnded& ended);

// teardown.cc
bool needs_destroy(const RunState& run, const StageInstance& s);
bool destroy_over(const StageInstance& s);
void begin_teardown(Step& step, v1::RunState outcome);
void advance_teardown(Step& step);
/// The stage's applying is over in this teardown: what it made is destroyed in its turn.
void halt_stage(Step& step, StageKey key);
void destroy_gave_up(Step& step, StageKey key, v1::ErrorInfo error,
                     std::vector<std::string> survivors);
void end_run(Step& step, v1::RunState state);
void end_it(Step& step, v1::RunState outcome, const std::string& by, const std::string& reason);

void take_over(Step& step, const v1::ForkOrigin& origin);
Status check_fork(const Workflow& workflow, const v1::ForkOrigin& origin);
void return_handle(Step& step, StageKey key);

// pause.cc
void thaw(Step& step);

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
void on_pause(Step& step, const v1::PauseRequested& e);
void on_resume(Step& step, const v1::ResumeRequested& e);
void on_signal(Step& step, const v1::SignalReceived& e);
void on_changed(Step& step, const v1::RunChanged& e);
void on_migrated(Step& step, const v1::RunMigrated& e);
void on_quarantined(Step& step, const v1::RunQuarantined& e);
void on_released(Step& step, const v1::RunReleased& e);
void on_handle_lent(Step& step, const v1::HandleLent& e);
void on_handle_returned(Step& step, const v1::HandleReturned& e);

}  // namespace bp::core
