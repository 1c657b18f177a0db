#include "engine/core/step.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>

namespace bp::core {

void fault(const char* file, int line, const char* expr) {
  throw Fault(std::string(file) + ":" + std::to_string(line) + ": check failed: " + expr);
}

Step::Step(RunState& state, v1::Event& the_event, Workflows& all)
    : run(state),
      event(the_event),
      workflows(all),
      numbers_(state.n),
      workflow_(state.workflow),
      submitted_(state.submitted),
      pins_(state.pins),
      was_ended_(is_ended(state.n.phase)) {
  ++run.applied;
}

void Step::undo() {
  run.n = numbers_;
  run.workflow = std::move(workflow_);
  run.submitted = std::move(submitted_);
  run.pins = std::move(pins_);
  if (before_.all_stages) run.stages = std::move(*before_.all_stages);
  for (StageInstance& s : before_.stages) {
    for (StageInstance& now : run.stages) {
      if (now.key == s.key) now = std::move(s);
    }
  }
  if (before_.timers) run.timers = std::move(*before_.timers);
  if (before_.rare) run.rare = std::move(*before_.rare);
  if (before_.labels) run.labels = std::move(*before_.labels);
  if (numbers_.run_seq == 0) {  // it did not exist
    run.run_id.clear();
    run.name.clear();
    run.run_number = 0;
    run.labels.clear();
    run.stages.clear();
  }
}

const StageInstance& Step::peek(StageKey key) const {
  const StageInstance* s = run.find(key);
  CORE_CHECK(s != nullptr);
  return *s;
}

StageInstance& Step::stage(StageKey key) {
  auto& s = const_cast<StageInstance&>(peek(key));  // of our own run
  change();
  if (s.saved_at != run.applied) {
    if (!before_.all_stages) before_.stages.push_back(s);
    s.saved_at = run.applied;
  }
  return s;
}

RunState::Rare& Step::rare() {
  change();
  if (!before_.rare) before_.rare = run.rare;
  return run.rare.make();
}

std::vector<std::pair<std::string, std::string>>& Step::labels() {
  change();
  if (!before_.labels) before_.labels = run.labels;
  return run.labels;
}

std::vector<Timer>& Step::timers() {
  change();
  if (!before_.timers) before_.timers = run.timers;
  return run.timers;
}

// What was changed before is put right in the copy, so that this copy alone is enough.
std::vector<StageInstance>& Step::all_stages() {
  change();
  if (before_.all_stages) return run.stages;
  before_.all_stages = run.stages;
  for (StageInstance& old : before_.stages) {
    for (StageInstance& s : *before_.all_stages) {
      if (s.key == old.key) s = old;
    }
  }
  before_.stages.clear();
  return run.stages;
}

void Step::insert_stage(StageInstance instance) {
  auto& all = all_stages();
  auto at = std::lower_bound(all.begin(), all.end(), instance.key,
                             [](const StageInstance& s, StageKey k) { return s.key < k; });
  CORE_CHECK(at == all.end() || at->key != instance.key);
  all.insert(at, std::move(instance));
}

void Step::act(Action action) {
  if (out.actions.empty()) out.actions.reserve(2);
  out.actions.push_back(std::move(action));
}

void Step::refuse(ErrorCode code, std::string message, std::string remedy) {
  CORE_CHECK(!out.changed);
  out.accepted = Error{code, std::move(message), std::move(remedy)};
}

void Step::arm(StageKey key, v1::TimerKind kind, int64_t delay_ms) {
  Timer t;
  t.key = key;
  t.kind = kind;
  t.epoch_counter = key == kRunItself ? run.n.epoch_counter : peek(key).epoch.counter;
  t.left_ms = delay_ms;
  t.due_boot_ms = event.boot_ms() + delay_ms;
  auto& all = timers();
  auto old = std::find_if(all.begin(), all.end(),
                          [&](const Timer& o) { return o.key == key && o.kind == kind; });
  if (old == all.end()) {
    all.push_back(t);
  } else {
    *old = t;
  }
  out.put_timers.push_back(t);
}

void Step::disarm(StageKey key, v1::TimerKind kind) {
  const Timer* found = run.timer(key, kind);
  if (!found) return;
  const auto at = found - run.timers.data();
  if (!found->frozen) {
    std::erase_if(out.put_timers, [&](const Timer& t) { return t.key == key && t.kind == kind; });
    out.drop_timers.push_back({key, kind});
  }
  timers().erase(run.timers.begin() + at);
}

void Step::disarm_attempt(StageKey key) {
  for (size_t i = run.timers.size(); i-- > 0;) {
    const Timer& t = run.timers[i];
    if (t.key == key && t.kind != v1::TIMER_KIND_TOTAL) disarm(key, t.kind);
  }
}

void Step::disarm_all(StageKey key) {
  disarm_attempt(key);
  disarm(key, v1::TIMER_KIND_TOTAL);
}

void Step::disarm_everything() {
  while (!run.timers.empty()) disarm(run.timers.back().key, run.timers.back().kind);
}

Outcome Step::finish() {
  RunState::Numbers& n = run.n;
  n.state = visible_state(n);
  if (!out.changed) return std::move(out);
  ++n.run_seq;
  n.updated_wall_ms = event.wall_ms();
  n.updated_boot_ms = event.boot_ms();
  out.ended = is_ended(n.phase) && n.phase != numbers_.phase;
  out.revived = was_ended_ && !is_ended(n.phase);
  if (out.record.what_case() == v1::Event::WHAT_NOT_SET) out.record = std::move(event);
  return std::move(out);
}

v1::RunState visible_state(const RunState::Numbers& n) {
  if (is_ended(n.phase)) return n.phase;
  if (n.quarantined) return v1::RUN_STATE_QUARANTINED;
  return n.paused ? v1::RUN_STATE_PAUSED : n.phase;
}

std::string serialize(const google::protobuf::MessageLite& message) {
  std::string bytes(message.ByteSizeLong(), '\0');
  google::protobuf::io::ArrayOutputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeWithCachedSizes(&coded);
  CORE_CHECK(!coded.HadError());
  return bytes;
}

v1::ErrorInfo make_error(ErrorCode code, std::string message) {
  v1::ErrorInfo e;
  e.set_code(std::string(error_name(code)));
  e.set_message(std::move(message));
  e.set_remedy(std::string(error_remedy(code)));
  return e;
}

}  // namespace bp::core
