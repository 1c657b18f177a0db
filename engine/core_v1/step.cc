#include "engine/core_v1/step.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

namespace bp::core_v1 {

StageInstance* Step::find(const std::string& name, uint32_t map_index) {
  auto it = run.stages.find({name, map_index});
  return it == run.stages.end() ? nullptr : &it->second;
}

StageInstance& Step::stage(const StageKey& key) {
  auto it = run.stages.find(key);
  BP_CHECK(it != run.stages.end());
  return it->second;
}

const v1::StageDefinition& Step::definition(const StageKey& key) const {
  const v1::StageDefinition* d = stage_definition(run, key.first);
  BP_CHECK(d != nullptr);
  return *d;
}

void Step::set_state(const StageKey& key, v1::StageState state) {
  touch(key);
  stage(key).state = state;
}

void Step::arm(const StageKey& key, v1::TimerKind kind, int64_t delay_ms) {
  storage::TimerRow row;
  row.run_id = run.run_id;
  row.stage = key.first;
  row.map_index = key.second;
  row.kind = kind;
  row.epoch_counter = stage(key).body.epoch().counter();
  row.due_boot_ms = event.boot_ms() + delay_ms;
  row.remaining_ms = delay_ms;
  row.boot_id = run.body.boot_id();
  put_timer(row);
}

void Step::put_timer(const storage::TimerRow& row) {
  const TimerKey key{{row.stage, row.map_index}, row.kind};
  run.timers[key] = row;
  timers_[key] = row;
  change();
}

void Step::disarm(const StageKey& key, v1::TimerKind kind) {
  if (run.timers.erase({key, kind}) == 0) return;
  timers_[{key, kind}] = std::nullopt;
  change();
}

void Step::disarm_attempt(const StageKey& key) {
  for (v1::TimerKind kind : {v1::TIMER_KIND_RETRY, v1::TIMER_KIND_QUEUE, v1::TIMER_KIND_RUN,
                             v1::TIMER_KIND_HEARTBEAT, v1::TIMER_KIND_CANCEL}) {
    disarm(key, kind);
  }
}

void Step::disarm_all(const StageKey& key) {
  disarm_attempt(key);
  disarm(key, v1::TIMER_KIND_TOTAL);
}

namespace {

storage::TimerRow timer_name(const RunState& run, const TimerKey& key) {
  storage::TimerRow row;
  row.run_id = run.run_id;
  row.stage = key.first.first;
  row.map_index = key.first.second;
  row.kind = key.second;
  return row;
}

storage::EventRow event_row(const RunState& run, v1::Event& event) {
  event.set_core_version(kCoreVersion);
  storage::EventRow row;
  row.run_id = run.run_id;
  row.run_seq = run.body.last_run_seq();
  row.wall_ms = event.wall_ms();
  row.type = v1::Event::descriptor()->FindFieldByNumber(event.what_case())->name();
  row.body = serialize(event);
  return row;
}

}  // namespace

Outcome Step::finish() {
  if (!out.changed) return std::move(out);
  run.body.set_last_run_seq(run.body.last_run_seq() + 1);
  run.updated_wall_ms = event.wall_ms();
  out.batch.events.push_back(event_row(run, record));
  out.batch.put_runs.push_back(encode_run(run));
  for (const StageKey& key : touched_) out.batch.put_stages.push_back(encode_stage(run, key));
  for (const auto& [key, row] : timers_) {
    if (row) {
      out.batch.put_timers.push_back(*row);
    } else {
      out.batch.drop_timers.push_back(timer_name(run, key));
    }
  }
  out.actions.push_back(Notify{run.run_id});
  return std::move(out);
}

std::string serialize(const google::protobuf::MessageLite& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  BP_CHECK(message.SerializeToCodedStream(&coded));
  coded.Trim();
  return bytes;
}

v1::ErrorInfo make_error(ErrorCode code, std::string message) {
  v1::ErrorInfo e;
  e.set_code(std::string(error_name(code)));
  e.set_message(std::move(message));
  e.set_remedy(std::string(error_remedy(code)));
  return e;
}

}  // namespace bp::core_v1
