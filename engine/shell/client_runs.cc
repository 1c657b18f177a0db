// The fast way: many runs in one request, acknowledged when all of them are durable; their ends
// told in batches, one message per turn and client.
#include "engine/base/ids.h"
#include "engine/base/limits.h"
#include "engine/shell/client_api.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

constexpr int kRunsPerRequest = 10'000;
constexpr size_t kEndWatchersMax = 1'000;

v1::SubmittedRun refused(ErrorCode code, std::string message) {
  v1::SubmittedRun r;
  r.set_error_code(std::string(error_name(code)));
  r.set_error_message(std::move(message));
  return r;
}

v1::RunEnd end_of(const storage::EndedRow& row) {
  v1::RunEnd end;
  end.set_run_id(row.run_id);
  end.set_state(static_cast<v1::RunState>(row.state));
  end.set_error_code(row.error_code);
  end.set_ended_wall_ms(row.ended_wall_ms);
  return end;
}

std::string first_fault(const v1::NewRun& m, const v1::WorkflowDefinition& workflow) {
  if (m.name().size() > limits::kNameBytes) return "the name is too long";
  if (m.idempotency_key().size() > limits::kNameBytes) return "the idempotency key is too long";
  if (m.labels_size() > 64) return "more than 64 labels";
  for (const auto& [name, value] : m.labels()) {
    if (name.empty() || name.size() > limits::kNameBytes || value.size() > limits::kNameBytes)
      return "label \"" + name.substr(0, 64) + "\" is empty or too long";
  }
  for (const auto& name : workflow.required_inputs()) {
    if (!m.inputs().contains(name)) return "input \"" + name + "\" is missing";
  }
  return {};
}

}  // namespace

// True: answered in `out`.
Result<bool> ClientApi::existing_run(const v1::NewRun& m, v1::SubmittedRun* out) const {
  if (m.idempotency_key().empty()) return false;
  BP_ASSIGN(auto row, conductor_.find_key(m.idempotency_key()));
  if (!row) return false;
  if (row->workflow != (m.workflow().empty() ? "default" : m.workflow())) {
    *out = refused(ErrorCode::kConflict, "idempotency key \"" + m.idempotency_key() +
                                             "\" was used for workflow " + row->workflow + ", by " +
                                             row->run_id);
    return true;
  }
  out->set_run_id(row->run_id);
  out->set_existed(true);
  return true;
}

v1::SubmittedRun ClientApi::start_run(const std::string& by, const v1::NewRun& m,
                                      const std::string& schedule,
                                      const Schedules::Hooks::AddExtra& add_extra) {
  v1::SubmittedRun out;
  auto workflow = workflows_.find(m.workflow(), m.workflow_version());
  if (!workflow.ok()) return refused(workflow.error().code, workflow.error().message);
  if (std::string fault = first_fault(m, (*workflow)->definition()); !fault.empty())
    return refused(ErrorCode::kInvalidArgument, std::move(fault));
  auto existed = existing_run(m, &out);
  if (!existed.ok()) return refused(existed.error().code, existed.error().message);
  if (*existed) {
    if (add_extra) conductor_.write(add_extra(out.run_id()), [] {});
    return out;
  }
  if (!admission_.admit(conductor_.active_count(), conductor_.live_count(), world_.clock.boot_ms(),
                        conductor_.counters().runs_ended)) {
    return refused(ErrorCode::kOverloaded, {});
  }
  v1::RunSubmitted s;
  s.set_run_id(conductor_.next_run_id());
  s.set_name(m.name());
  s.set_idempotency_key(m.idempotency_key());
  s.set_submitter(by);
  s.set_schedule(schedule);
  s.set_priority(m.priority());
  s.set_start_after_ms(m.start_after_ms());
  *s.mutable_options() = m.options();
  *s.mutable_labels() = m.labels();
  *s.mutable_limit_keys() = m.limit_keys();
  Extra extra = add_extra ? add_extra(s.run_id()) : Extra{};
  for (const auto& [name, bytes] : m.inputs()) {
    if (bytes.size() <= limits::kInlinePayloadBytes) {
      (*s.mutable_inputs())[name] = bytes;
      continue;
    }
    const std::string hash = content_hash(bytes);
    (*s.mutable_payloads())[name] = hash;
    extra.blobs[hash] = bytes;
  }
  for (const auto& [name, bytes] : m.secrets()) {
    extra.secrets.push_back(
        {conductor_.next_run_number(), name, box_.seal(s.run_id(), name, Secret(bytes))});
  }
  out.set_run_id(s.run_id());
  Status done = conductor_.submit(std::move(s), *workflow, {}, std::move(extra));
  return done.ok() ? out : refused(done.error().code, done.error().message);
}

void ClientApi::submit_runs(const Asker& to, const bus::Peer& peer, const v1::SubmitRuns& m) {
  if (m.runs_size() > kRunsPerRequest) {
    return fail(to, Error{ErrorCode::kTooLarge,
                          std::to_string(m.runs_size()) + " runs in one request; at most " +
                              std::to_string(kRunsPerRequest),
                          {}});
  }
  auto r = std::make_shared<v1::ClientReply>();
  auto* all = r->mutable_runs_submitted();
  bool overloaded = false;
  Ends ends;
  for (const auto& run : m.runs()) {
    auto* one = all->add_runs();
    *one = start_run(peer.user, run, {}, {});
    overloaded |= one->error_code() == error_name(ErrorCode::kOverloaded);
    if (!m.tell_ends() || one->run_id().empty()) continue;
    ++ends.left;
    ends_of_[number_of_id(one->run_id())].push_back(to);
  }
  if (overloaded) all->set_retry_after_ms(admission_.retry_after_ms());
  const bool stream = ends.left > 0;
  if (stream) ends_[to] = std::move(ends);
  conductor_.after_durable([this, to, r, stream] { reply(to, std::move(*r), !stream); });
}

void ClientApi::watch_ends(const Asker& to, const v1::WatchEnds& m) {
  if (ends_.size() >= kEndWatchersMax) {
    return fail(to, Error{ErrorCode::kUnavailable,
                          "too many watchers (" + std::to_string(kEndWatchersMax) + ")",
                          {}});
  }
  std::vector<std::string> ids(m.run_ids().begin(), m.run_ids().end());
  conductor_.after_durable([this, to, all = m.all(), ids = std::move(ids)] {
    Ends& ends = ends_[to];
    ends.all = all;
    std::vector<v1::RunEnd> over;
    for (const auto& id : ids) {
      const auto* run = conductor_.find_live(id);
      if (run) {
        ++ends.left;
        ends_of_[run->run_number].push_back(to);
        continue;
      }
      auto row = conductor_.find_ended(id);
      if (!row.ok()) {
        ends_.erase(to);
        return fail(to, row.error());
      }
      ++ends.left;
      over.push_back(end_of(*row));
    }
    for (const auto& end : over) tell_end(to, end);
    if (!all && ids.empty()) tell_ends_soon();
  });
}

void ClientApi::tell_end(const Asker& to, const v1::RunEnd& end) {
  auto it = ends_.find(to);
  if (it == ends_.end()) return;
  if (it->second.left > 0 && !it->second.all) --it->second.left;
  *it->second.pending.mutable_ends()->add_ends() = end;
  tell_ends_soon();
}

void ClientApi::ended(const storage::EndedRow& row) {
  if (ends_.empty()) return;
  v1::RunEnd end = end_of(row);
  for (auto& [to, ends] : ends_) {
    if (ends.all) tell_end(to, end);
  }
  auto waiting = ends_of_.extract(row.run_number);
  if (waiting.empty()) return;
  for (const Asker& to : waiting.mapped()) tell_end(to, end);
}

void ClientApi::tell_ends_soon() {
  if (ends_posted_) return;
  ends_posted_ = true;
  world_.executor.post([this, alive = alive_] {
    if (*alive) tell_ends();
  });
}

void ClientApi::tell_ends() {
  ends_posted_ = false;
  for (auto it = ends_.begin(); it != ends_.end();) {
    Ends& ends = it->second;
    const bool last = !ends.all && ends.left == 0;
    if (ends.pending.has_ends() || last) reply(it->first, std::exchange(ends.pending, {}), last);
    it = last ? ends_.erase(it) : std::next(it);
  }
}

}  // namespace bp::shell
