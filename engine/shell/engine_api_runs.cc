// Fork, history, values: what is said about one run.
#include <algorithm>
#include <set>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/shell/engine_api.h"
#include "engine/shell/history_view.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

constexpr size_t kPageEntries = 200;
constexpr size_t kPageBytes = 1 << 20;

void refuse(const EngineApi::Reply& reply, const Error& error) {
  v1::ClientReply r;
  *r.mutable_error() = to_wire(error);
  reply(std::move(r), true);
}

// Stages that hold something, and all that come after them, run again in the fork.
void leave_out_handles(const core::Workflow& onto, v1::ForkOrigin* origin) {
  std::set<std::string> left_out;
  for (const auto& t : origin->taken()) {
    if (!t.lender().empty()) left_out.insert(t.stage());
  }
  v1::ForkOrigin kept = *origin;
  kept.clear_taken();
  for (const auto& t : origin->taken()) {
    const auto index = onto.find(t.stage());
    bool keep = index && !left_out.count(t.stage());
    for (core::StageIndex earlier : index ? onto.earlier(*index) : std::vector<core::StageIndex>())
      keep = keep && !left_out.count(onto.stage(earlier).name());
    if (keep) *kept.add_taken() = t;
  }
  *origin = std::move(kept);
}

}  // namespace

Result<EngineApi::Found> EngineApi::find(const std::string& id_or_name) {
  if (const auto* run = conductor_.find_live(id_or_name))
    return Found{run->run_id, run->run_number, run->last_commit};
  BP_ASSIGN(auto row, conductor_.find_ended(id_or_name));
  return Found{row.run_id, row.run_number, row.last_commit};
}

Result<std::vector<storage::Entry>> EngineApi::history_of(const std::string& id_or_name) {
  BP_ASSIGN(Found found, find(id_or_name));
  return world_.journal.history(found.run_number, found.last_commit, 0);
}

Result<core::RunState> EngineApi::state(const std::string& id_or_name, Moment moment) {
  if (moment.event == 0 && moment.wall_ms == 0) {
    if (const auto* run = conductor_.find_live(id_or_name)) return *run;
  }
  BP_ASSIGN(auto entries, history_of(id_or_name));
  return state_at(entries, moment, conductor_.workflows());
}

void EngineApi::history(const v1::RunHistory& m, const Reply& reply) {
  auto entries = history_of(m.id());
  if (!entries.ok()) return refuse(reply, entries.error());
  v1::ClientReply page;
  page.mutable_history();
  size_t bytes = 0;
  uint32_t sent = 0;
  for (const auto& e : *entries) {
    if (e.run_seq <= m.after_event()) continue;
    if (m.limit() != 0 && sent++ >= m.limit()) break;
    auto* out = page.mutable_history()->add_entries();
    *out = history_entry(e, m.bodies());
    bytes += out->ByteSizeLong();
    if (bytes > kPageBytes || page.history().entries_size() >= int(kPageEntries)) {
      reply(std::move(page), false);
      page = {};
      page.mutable_history();
      bytes = 0;
    }
  }
  reply(std::move(page), true);
}

Result<v1::RunValues> EngineApi::values(const core::RunState& run, const v1::QueryRun& m) {
  v1::RunValues out;
  size_t bytes = 0;
  auto put = [&](const std::string& name, const core::Value& value) -> Status {
    std::string content = value.bytes;
    if (value.is_blob) {
      BP_ASSIGN(auto blob, world_.journal.blob(value.bytes));
      if (!blob) return Error{ErrorCode::kJournal, "the payload of " + name + " is gone", {}};
      content = std::move(*blob);
    }
    (*out.mutable_sizes())[name] = content.size();
    const bool asked = std::find(m.values().begin(), m.values().end(), name) != m.values().end();
    if (!asked) return {};
    bytes += content.size();
    if (bytes > limits::kMessageBytes / 2) {
      return Error{ErrorCode::kTooLarge,
                   "the values asked for have more than " +
                       std::to_string(limits::kMessageBytes / 2) + " bytes",
                   "Ask for one at a time"};
    }
    (*out.mutable_values())[name] = std::move(content);
    return {};
  };
  for (const auto& v : run.submitted->inputs) BP_TRY(put("input." + v.name, v));
  for (const auto& stage : run.stages) {
    if (!stage.outputs) continue;
    std::string prefix = run.stage_name(stage.key) + ".";
    const std::string suffix = stage.expanded && run.workflow->mapped(stage.key.stage)
                                   ? "." + std::to_string(stage.key.map_index)
                                   : "";
    for (const auto& v : *stage.outputs) BP_TRY(put(prefix + v.name + suffix, v));
  }
  for (const std::string& name : m.values()) {
    if (!out.values().count(name)) {
      return Error{ErrorCode::kNotFound, "run " + run.run_id + " has no value \"" + name + "\"",
                   "`bp query " + run.run_id + "` lists them"};
    }
  }
  return out;
}

void EngineApi::query(const v1::QueryRun& m, const Reply& reply) {
  auto run = state(m.id(), {});
  if (!run.ok()) return refuse(reply, run.error());
  auto found = values(*run, m);
  if (!found.ok()) return refuse(reply, found.error());
  v1::ClientReply r;
  *r.mutable_values() = std::move(*found);
  reply(std::move(r), true);
}

void EngineApi::fork(const v1::ForkRun& m, const std::string& by, const Reply& reply) {
  auto id = std::make_shared<std::string>();
  auto started = start_fork(m, by, [reply, id, name = m.name()] {
    v1::ClientReply r;
    r.mutable_submitted()->set_run_id(*id);
    r.mutable_submitted()->set_name(name.empty() ? *id : name);
    reply(std::move(r), true);
  });
  if (!started.ok()) return refuse(reply, started.error());
  *id = std::move(*started);
}

Result<std::string> EngineApi::start_fork(const v1::ForkRun& m, const std::string& by,
                                          std::function<void()> durable) {
  if (!m.idempotency_key().empty()) {
    BP_ASSIGN(auto known, conductor_.find_key(m.idempotency_key()));
    if (known) {
      conductor_.after_durable(std::move(durable));
      return known->run_id;
    }
  }
  BP_ASSIGN(core::RunState from, state(m.id(), Moment{m.at_event(), 0}));
  core::Workflow::Ptr onto = from.workflow;
  if (!m.workflow().empty() || m.workflow_version() != 0) {
    BP_ASSIGN(onto, workflows_.find(m.workflow().empty() ? onto->name() : m.workflow(),
                                    m.workflow_version()));
  }
  v1::RunSubmitted s;
  s.set_run_id(conductor_.next_run_id());
  s.set_name(m.name().empty() ? s.run_id() : m.name());
  s.set_idempotency_key(m.idempotency_key());
  s.set_submitter(by);
  if (!m.from_stage().empty()) {
    BP_ASSIGN(*s.mutable_fork(), core::fork_origin(from, m.from_stage(), *onto));
    if (!m.borrow()) leave_out_handles(*onto, s.mutable_fork());
  }
  for (const auto& v : from.submitted->inputs)
    (*(v.is_blob ? s.mutable_payloads() : s.mutable_inputs()))[v.name] = v.bytes;
  for (const auto& [name, bytes] : m.put_inputs()) {
    s.mutable_payloads()->erase(name);
    (*s.mutable_inputs())[name] = bytes;
  }
  for (const auto& [k, v] : from.submitted->options) (*s.mutable_options())[k] = v;
  for (const auto& [k, v] : from.labels) (*s.mutable_labels())[k] = v;
  for (const auto& key : from.submitted->limit_keys) s.add_limit_keys(key);
  s.set_priority(from.n.priority);
  BP_TRY(lend(s));
  const std::string id = s.run_id();
  const v1::ForkOrigin origin = s.fork();
  Status submitted = conductor_.submit(std::move(s), onto, std::move(durable), {});
  if (submitted.ok()) return id;
  for (const auto& taken : origin.taken()) take_back(taken, id);
  return std::move(submitted).error();
}

// In the commit that the fork begins with, or not at all.
Status EngineApi::lend(const v1::RunSubmitted& fork) {
  for (int i = 0; i < fork.fork().taken_size(); ++i) {
    const v1::TakenStage& taken = fork.fork().taken(i);
    if (taken.lender().empty()) continue;
    v1::Event lent;
    lent.mutable_handle_lent()->set_stage(taken.stage());
    lent.mutable_handle_lent()->set_map_index(taken.map_index());
    lent.mutable_handle_lent()->set_borrower(fork.run_id());
    Status fed = conductor_.feed(taken.lender(), std::move(lent));
    if (fed.ok()) continue;
    for (int k = 0; k < i; ++k) take_back(fork.fork().taken(k), fork.run_id());
    return std::move(fed).error().with_context("borrow what stage " + taken.stage() + " holds");
  }
  return {};
}

void EngineApi::take_back(const v1::TakenStage& taken, const std::string& borrower) {
  if (taken.lender().empty()) return;
  v1::Event back;
  back.mutable_handle_returned()->set_stage(taken.stage());
  back.mutable_handle_returned()->set_map_index(taken.map_index());
  back.mutable_handle_returned()->set_borrower(borrower);
  Status fed = conductor_.feed(taken.lender(), std::move(back));
  if (!fed.ok())
    BP_LOG(err, "handle.not_returned", "lender={} borrower={} why={}", taken.lender(), borrower,
           fed.error().message);
}

}  // namespace bp::shell
