#include "tests/sim/points/ledger.h"

#include "engine/core/core.h"

namespace bp::sim {

const char* name_of(Fault fault) {
  static constexpr const char* kNames[] = {"none", "lost", "duplicate", "broken"};
  return kNames[static_cast<int>(fault)];
}

namespace {

std::string text_of(const v1::AttemptRef& ref) {
  return "attempt " + std::to_string(ref.attempt()) + " of " + ref.stage() + "[" +
         std::to_string(ref.map_index()) + "] of " + ref.run_id() + ", epoch " +
         std::to_string(ref.epoch().counter());
}

}  // namespace

void Ledger::begins(const std::string& host_id, const v1::AttemptRef& ref,
                    const std::string& effect_key) {
  auto& workers = at_work_[effect_key];
  for (const auto& [other, who] : workers) {
    if (other != host_id)
      fail(Fault::kDuplicate, "two hosts at work on " + effect_key + ": " + who + " in " + other +
                                  ", and " + text_of(ref) + " in " + host_id);
  }
  workers[host_id] = text_of(ref);
  const Begun now{ref.stage(), ref.map_index(), ref.attempt()};
  auto [it, fresh] = begun_.try_emplace({ref.run_id(), ref.epoch().counter()}, now);
  if (!fresh && (it->second.stage != now.stage || it->second.map_index != now.map_index ||
                 it->second.attempt != now.attempt)) {
    fail(Fault::kDuplicate, "an epoch was given twice: " + text_of(ref) + ", and attempt " +
                                std::to_string(it->second.attempt) + " of " + it->second.stage);
  }
}

void Ledger::ends(const std::string& host_id, const v1::AttemptRef& ref) {
  for (auto& [key, workers] : at_work_) {
    auto it = workers.find(host_id);
    if (it != workers.end() && it->second == text_of(ref)) workers.erase(it);
  }
}

void Ledger::host_died(const std::string& host_id) {
  for (auto& [key, workers] : at_work_) workers.erase(host_id);
}

void Ledger::applies(const std::string& effect_key, const v1::AttemptRef& ref) {
  auto [it, fresh] = effects_.try_emplace(effect_key, text_of(ref));
  if (!fresh)
    fail(Fault::kDuplicate, effect_key + " was applied twice: by " + it->second + " and by " +
                                text_of(ref));
}

void Ledger::acknowledged_submit(const std::string& key, const std::string& run_id) {
  auto [it, fresh] = submits_.try_emplace(key, run_id);
  if (!fresh && it->second != run_id)
    fail(Fault::kDuplicate, "key " + key + " gave two runs: " + it->second + " and " + run_id);
}

void Ledger::acknowledged_command(const std::string& run_id, const std::string& request_key) {
  commands_.insert({run_id, request_key});
}

/// What the log says.
struct Ledger::History {
  core::Workflows workflows;
  std::map<std::string, core::RunState> runs;  // by id, as replayed
  std::map<uint64_t, std::string> ids;         // by number
  std::map<std::string, std::vector<std::string>> keys;  // idempotency key -> run ids
  std::map<EpochId, Begun> epochs;                        // attempts that ever were current
  std::set<EpochId> ended;                                // AttemptEnded, EndedWasLate
  std::set<std::string> host_ids;
  std::map<std::pair<std::string, std::string>, int> commands;

  std::map<uint64_t, storage::LiveRow> snapshots;         // by run number

  explicit History(storage::Journal& journal)
      : workflows([&journal](const std::string& hash) -> Result<std::string> {
          BP_ASSIGN(auto bytes, journal.blob(hash));
          if (!bytes) return Error{ErrorCode::kNotFound, "no workflow " + hash, {}};
          return *bytes;
        }) {}

  Status read(storage::Journal& journal) {
    BP_ASSIGN(auto recovered, journal.recover());
    for (auto& row : recovered.live) snapshots[row.run_number] = std::move(row);
    return journal.read_log(1, recovered.last_commit, [this](const storage::LogRecord& record) -> Status {
      for (const auto& entry : record.entries) BP_TRY(take(entry, record.number));
      return Status();
    });
  }

  // A snapshot is what replay arrives at.
  Status compare_snapshot(core::RunState& run) {
    auto it = snapshots.find(run.run_number);
    if (it == snapshots.end() || it->second.run_seq != run.n.run_seq) return {};
    if (it->second.body == core::encode_run(run)) return {};
    return Error{ErrorCode::kJournal, "the snapshot of " + run.run_id + " at its event " +
                                          std::to_string(run.n.run_seq) +
                                          " is not what replay arrives at", {}};
  }

  Status take(const storage::Entry& entry, uint64_t commit) {
    if (entry.run_number == 0) return {};
    v1::Event event;
    if (!event.ParseFromString(entry.body))
      return Error{ErrorCode::kJournal, "an entry cannot be read", {}};
    if (event.has_submitted()) {
      const auto& s = event.submitted();
      auto [it, fresh] = ids.try_emplace(entry.run_number, s.run_id());
      if (!fresh) return Error{ErrorCode::kJournal, "run number given twice", {}};
      if (!s.idempotency_key().empty()) keys[s.idempotency_key()].push_back(s.run_id());
    }
    auto id = ids.find(entry.run_number);
    if (id == ids.end()) return Error{ErrorCode::kJournal, "an entry of an unknown run", {}};
    note(id->second, event);
    core::RunState& run = runs[id->second];
    auto outcome = core::apply(run, event, workflows);
    if (!outcome.accepted.ok() || !outcome.changed)
      return Error{ErrorCode::kJournal,
                   "event " + std::to_string(entry.run_seq) + " of " + id->second +
                       " changes nothing when it is replayed",
                   {}};
    if (run.n.run_seq != entry.run_seq)
      return Error{ErrorCode::kJournal, "run_seq of " + id->second + " leaves a gap", {}};
    for (const auto& line : core::broken_invariants(run))
      return Error{ErrorCode::kJournal, id->second + ": " + line, {}};
    for (const auto& s : run.stages) {
      if (s.attempt > 0)
        epochs[{run.run_id, s.epoch.counter}] = {run.stage_name(s.key), s.key.map_index, s.attempt};
    }
    run.last_commit = commit;
    return compare_snapshot(run);
  }

  void note(const std::string& run_id, const v1::Event& event) {
    if (event.has_ended()) ended.insert({run_id, event.ended().epoch().counter()});
    if (event.has_ended_was_late())
      ended.insert({run_id, event.ended_was_late().epoch().counter()});
    if (event.has_dispatched()) host_ids.insert(event.dispatched().host_id());
    if (!event.request_key().empty()) ++commands[{run_id, event.request_key()}];
  }
};

void Ledger::compare_submits(const History& h) {
  for (const auto& [key, run_id] : submits_) {
    auto it = h.keys.find(key);
    if (it == h.keys.end() || it->second.front() != run_id)
      fail(Fault::kLost, "submit " + key + " was acknowledged as " + run_id +
                             " and is not on record");
  }
  for (const auto& [key, ids] : h.keys) {
    if (ids.size() > 1)
      fail(Fault::kDuplicate, "key " + key + " is on record for " + std::to_string(ids.size()) +
                                  " runs: " + ids[0] + ", " + ids[1]);
  }
  for (const auto& command : commands_) {
    if (!h.commands.count(command))
      fail(Fault::kLost, "command " + command.second + " on " + command.first +
                             " was acknowledged and is not on record");
  }
  for (const auto& [command, times] : h.commands) {
    if (times > 1)
      fail(Fault::kDuplicate, "command " + command.second + " on " + command.first +
                                  " is on record " + std::to_string(times) + " times");
  }
}

void Ledger::compare_results(const History& h) {
  for (const auto& ref : results_) {
    if (!h.ended.count({ref.run_id(), ref.epoch().counter()}))
      fail(Fault::kLost, "the result of " + text_of(ref) +
                             " was acknowledged and is not on record");
  }
}

void Ledger::compare_begun(const History& h) {
  for (const auto& [id, b] : begun_) {
    auto it = h.epochs.find(id);
    const bool same = it != h.epochs.end() && it->second.stage == b.stage &&
                      it->second.map_index == b.map_index && it->second.attempt == b.attempt;
    if (!same)
      fail(Fault::kLost, "attempt " + std::to_string(b.attempt) + " of " + b.stage + " of " +
                             id.first + ", epoch " + std::to_string(id.second) +
                             ", was begun and is not on record");
  }
  for (const auto& id : spawned_) {
    if (!h.host_ids.count(id))
      fail(Fault::kLost, "host " + id + " was started for an attempt that is not on record");
  }
}

void Ledger::compare(storage::Journal& journal, bool index_may_be_broken) {
  History h(journal);
  if (Status read = h.read(journal); !read.ok())
    return fail(Fault::kBroken, read.error().message);
  compare_submits(h);
  compare_results(h);
  compare_begun(h);
  auto lines = journal.check({});
  if (!lines.ok()) return fail(Fault::kBroken, lines.error().message);
  for (const auto& line : *lines) {
    if (index_may_be_broken && line.starts_with("the search index")) continue;
    fail(Fault::kBroken, line);
  }
}

}  // namespace bp::sim
