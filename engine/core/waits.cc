// Stages without a plugin: they sleep, or wait for a signal. A signal that was taken counts for the
// whole generation: a rewind does not ask for the same approval twice.
#include <algorithm>

#include "engine/base/limits.h"
#include "engine/core/step.h"

namespace bp::core {
namespace {

ValuesPtr payload_of(std::string payload) {
  return std::make_shared<const Values>(Values{{"payload", std::move(payload), false}});
}

// Takes the oldest signal of that name.
std::optional<std::string> take_signal(Step& step, const std::string& name) {
  const auto& known = step.run.rarely().signals;
  auto it =
      std::find_if(known.begin(), known.end(), [&](const Signal& s) { return s.name == name; });
  if (it == known.end()) return std::nullopt;
  const auto at = it - known.begin();
  auto& signals = step.rare().signals;
  std::string payload = std::move(signals[static_cast<size_t>(at)].payload);
  signals.erase(signals.begin() + at);
  return payload;
}

bool keep_last(Step& step, const v1::SignalReceived& e) {
  const auto& known = step.run.rarely().last_signals;
  const bool is_new = std::none_of(known.begin(), known.end(),
                                   [&](const Signal& s) { return s.name == e.name(); });
  if (is_new && known.size() >= kSignalNamesMax) return false;
  auto& last = step.rare().last_signals;
  if (is_new) last.push_back({e.name(), {}});
  for (Signal& s : last) {
    if (s.name == e.name()) s.payload = e.payload();
  }
  return true;
}

}  // namespace

void wait_over(Step& step, StageKey key, ValuesPtr outputs) {
  step.disarm_all(key);
  StageInstance& s = step.stage(key);
  s.state = v1::STAGE_STATE_SUCCEEDED;
  s.failures = 0;
  s.failure.drop();
  s.last_ended_counter = s.epoch.counter;
  s.ended_wall_ms = step.event.wall_ms();
  if (outputs) s.outputs = std::move(outputs);
}

void begin_wait(Step& step, StageKey key) {
  StageInstance& s = step.stage(key);
  const v1::StageDefinition& d = step.definition(key);
  s.started_wall_ms = step.event.wall_ms();
  if (step.run.n.phase == v1::RUN_STATE_QUEUED) step.run.n.phase = v1::RUN_STATE_RUNNING;
  s.state = v1::STAGE_STATE_WAITING;
  if (s.outputs) return wait_over(step, key, nullptr);
  if (d.wait_signal().empty()) {
    step.arm(key, v1::TIMER_KIND_SLEEP, d.sleep_ms());
    return;
  }
  if (auto payload = take_signal(step, d.wait_signal()))
    return wait_over(step, key, payload_of(std::move(*payload)));
  if (d.run_timeout_ms() > 0) step.arm(key, v1::TIMER_KIND_SIGNAL, d.run_timeout_ms());
}

void on_signal(Step& step, const v1::SignalReceived& e) {
  RunState& run = step.run;
  if (e.name().empty() || e.name().size() > limits::kNameBytes) {
    return step.refuse(ErrorCode::kInvalidArgument, "a signal needs a name of 1 to 256 bytes");
  }
  if (e.payload().size() > limits::kInlinePayloadBytes) {
    return step.refuse(ErrorCode::kTooLarge,
                       "the payload of signal " + e.name() + " has " +
                           std::to_string(e.payload().size()) + " bytes; at most " +
                           std::to_string(limits::kInlinePayloadBytes));
  }
  const v1::RunState phase = run.n.phase;
  if (is_ended(phase) || phase == v1::RUN_STATE_STOPPING || phase == v1::RUN_STATE_NEEDS_HUMAN) {
    return step.refuse(ErrorCode::kConflict, run.name + " takes no signals any more: it has ended "
                                                        "or is ending");
  }
  if (run.rarely().signals.size() >= kSignalsMax) {
    return step.refuse(ErrorCode::kUnavailable, run.name + " has " + std::to_string(kSignalsMax) +
                                                    " signals that no stage has taken yet");
  }
  if (!keep_last(step, e)) {
    return step.refuse(ErrorCode::kInvalidArgument,
                       run.name + " has had signals of " + std::to_string(kSignalNamesMax) +
                           " names; no further name is taken");
  }
  step.rare().signals.push_back({e.name(), e.payload()});
  for (size_t i = 0; i < run.stages.size(); ++i) {
    const StageInstance& s = run.stages[i];
    if (s.state != v1::STAGE_STATE_WAITING || step.definition(s.key).wait_signal() != e.name())
      continue;
    if (auto payload = take_signal(step, e.name()))
      wait_over(step, s.key, payload_of(std::move(*payload)));
  }
}

}  // namespace bp::core
