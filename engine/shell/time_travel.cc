#include "engine/shell/time_travel.h"

namespace bp::shell {
namespace {

Error unreadable(const storage::Entry& e, const std::string& why) {
  return {ErrorCode::kJournal,
          "event " + std::to_string(e.run_seq) + " of run number " + std::to_string(e.run_number) +
              ": " + why,
          {}};
}

}  // namespace

Result<core::RunState> state_at(const std::vector<storage::Entry>& history, Moment moment,
                                core::Workflows& workflows) {
  core::RunState state;
  for (const storage::Entry& e : history) {
    if (moment.event != 0 && e.run_seq > moment.event) break;
    if (moment.event == 0 && moment.wall_ms != 0 && e.wall_ms > moment.wall_ms) break;
    if (e.body.empty()) return unreadable(e, "its body was erased");
    v1::Event event;
    if (!event.ParseFromString(e.body)) return unreadable(e, "it is no event");
    try {
      core::Outcome outcome = core::apply(state, std::move(event), workflows);
      if (!outcome.accepted.ok())
        return unreadable(e, "the core refuses it: " + outcome.accepted.error().message);
    } catch (const core::Fault& fault) {
      return unreadable(e, std::string("the core breaks on it: ") + fault.what());
    }
  }
  const uint64_t last = history.empty() ? 0 : history.back().run_seq;
  if (state.run_id.empty() || moment.event > last) {
    return Error{ErrorCode::kNotFound,
                 moment.event > last ? "the run has no event " + std::to_string(moment.event) +
                                           "; its last is " + std::to_string(last)
                                     : std::string("the run did not exist then"),
                 {}};
  }
  return state;
}

std::string replay_difference(const std::vector<storage::Entry>& history, const core::RunState& now,
                              core::Workflows& workflows) {
  auto again = state_at(history, {}, workflows);
  if (!again.ok()) return again.error().message;
  again->last_commit = now.last_commit;
  if (core::encode_run(*again) == core::encode_run(now)) return {};
  if (again->n.run_seq != now.n.run_seq) {
    return "its history ends with event " + std::to_string(again->n.run_seq) + ", its state with " +
           std::to_string(now.n.run_seq);
  }
  for (size_t i = 0; i < now.stages.size() && i < again->stages.size(); ++i) {
    const auto &a = again->stages[i], &b = now.stages[i];
    if (a.state != b.state || a.epoch != b.epoch || a.attempt != b.attempt) {
      return "stage " + now.stage_name(b.key) + " is " + v1::StageState_Name(b.state) +
             ", by its history " + v1::StageState_Name(a.state);
    }
  }
  if (again->state() != now.state()) {
    return "it is " + v1::RunState_Name(now.state()) + ", by its history " +
           v1::RunState_Name(again->state());
  }
  return "its state differs from its history in a field that is not shown";
}

}  // namespace bp::shell
