// Between memory and rows.
#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

Error broken(const std::string& run_id, const std::string& what) {
  return {ErrorCode::kJournal, "run " + run_id + ": " + what, {}};
}

}  // namespace

storage::RunRow encode_run(const RunState& state) {
  storage::RunRow row;
  row.run_id = state.run_id;
  row.run_number = state.run_number;
  row.name = state.name;
  row.live = state.live;
  row.state = state.state;
  row.epoch_counter = state.epoch_counter;
  row.created_wall_ms = state.created_wall_ms;
  row.updated_wall_ms = state.updated_wall_ms;
  row.idempotency_key = state.idempotency_key;
  row.body = serialize(state.body);
  return row;
}

storage::StageRow encode_stage(const RunState& state, const StageKey& key) {
  const StageInstance& s = state.stages.at(key);
  storage::StageRow row;
  row.run_id = state.run_id;
  row.stage = key.first;
  row.map_index = key.second;
  row.state = s.state;
  row.body = serialize(s.body);
  return row;
}

Result<RunState> decode(const storage::RunRow& run, const std::vector<storage::StageRow>& stages,
                        const std::vector<storage::TimerRow>& timers) {
  RunState state;
  state.run_id = run.run_id;
  state.run_number = run.run_number;
  state.name = run.name;
  state.live = run.live;
  state.epoch_counter = run.epoch_counter;
  state.created_wall_ms = run.created_wall_ms;
  state.updated_wall_ms = run.updated_wall_ms;
  state.idempotency_key = run.idempotency_key;
  if (!v1::RunState_IsValid(run.state) || run.state == v1::RUN_STATE_UNSPECIFIED) {
    return broken(run.run_id, "unknown state " + std::to_string(run.state));
  }
  state.state = v1::RunState(run.state);
  if (!state.body.ParseFromString(run.body)) return broken(run.run_id, "its body cannot be read");
  for (const storage::StageRow& row : stages) {
    if (row.run_id != run.run_id) continue;
    StageInstance& s = state.stages[{row.stage, row.map_index}];
    if (!v1::StageState_IsValid(row.state) || row.state == v1::STAGE_STATE_UNSPECIFIED) {
      return broken(run.run_id,
                    "stage " + row.stage + " has the unknown state " + std::to_string(row.state));
    }
    s.state = v1::StageState(row.state);
    if (!s.body.ParseFromString(row.body)) {
      return broken(run.run_id, "the body of stage " + row.stage + " cannot be read");
    }
    if (!stage_definition(state, row.stage)) {
      return broken(run.run_id, "stage " + row.stage + " is not in its workflow");
    }
  }
  for (const storage::TimerRow& row : timers) {
    if (row.run_id != run.run_id) continue;
    const StageKey key{row.stage, row.map_index};
    if (!state.stages.count(key))
      return broken(run.run_id, "a timer of the unknown stage " + row.stage);
    state.timers[{key, row.kind}] = row;
  }
  return state;
}

}  // namespace bp::core_v1
