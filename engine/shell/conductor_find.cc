// Where runs are found: the live ones, those that have just ended, and the journal.
#include <algorithm>

#include "engine/shell/conductor_run.h"

namespace bp::shell {

Conductor::Run* Conductor::run_of(uint64_t run_number) const {
  auto it = runs_.find(run_number);
  return it == runs_.end() ? nullptr : it->second.get();
}

Conductor::Run* Conductor::run_of(const std::string& run_id) const {
  uint64_t number = number_of_id(run_id);
  if (number == 0) {
    auto it = other_ids_.find(run_id);
    if (it == other_ids_.end()) return nullptr;
    number = it->second;
  }
  Run* run = run_of(number);
  return run && run->state.run_id == run_id ? run : nullptr;
}

const core::RunState* Conductor::find(const std::string& run_id) const {
  const Run* run = run_of(run_id);
  return run ? &run->state : nullptr;
}

const core::RunState* Conductor::find(uint64_t run_number) const {
  const Run* run = run_of(run_number);
  return run ? &run->state : nullptr;
}

const core::RunState* Conductor::find_live(const std::string& id_or_name) const {
  if (const auto* run = find(id_or_name)) return core::is_ended(run->state()) ? nullptr : run;
  auto it = names_.find(id_or_name);
  return it == names_.end() ? nullptr : find(it->second);
}

void Conductor::each_run(const std::function<void(const core::RunState&)>& call) const {
  std::vector<uint64_t> numbers;
  numbers.reserve(runs_.size());
  for (const auto& [number, run] : runs_) numbers.push_back(number);
  std::sort(numbers.begin(), numbers.end());
  for (const uint64_t number : numbers) {
    if (const Run* run = run_of(number)) call(run->state);
  }
}

Result<std::optional<storage::EndedRow>> Conductor::find_key(const std::string& key) const {
  if (auto it = keys_.find(key); it != keys_.end()) {
    if (const Run* run = run_of(it->second)) return std::optional(core::ended_row(run->state));
  }
  if (auto it = ended_keys_.find(key); it != ended_keys_.end()) {
    if (auto row = ended_by_number_.find(it->second); row != ended_by_number_.end())
      return std::optional(*row->second);
  }
  return world_.journal.ended_by_key(key);
}

Result<storage::EndedRow> Conductor::find_ended(const std::string& id_or_name) const {
  if (const uint64_t number = number_of_id(id_or_name)) {
    auto it = ended_by_number_.find(number);
    if (it != ended_by_number_.end() && it->second->run_id == id_or_name) return *it->second;
    BP_ASSIGN(auto row, world_.journal.ended_by_number(number));
    if (row && row->run_id == id_or_name) return *std::move(row);
  }
  for (auto it = ended_.rbegin(); it != ended_.rend(); ++it) {
    const bool current = ended_by_number_.count(it->run_number) > 0;
    if (current && (it->name == id_or_name || it->run_id == id_or_name)) return *it;
  }
  storage::EndedQuery by_name;
  by_name.name = id_or_name;
  by_name.limit = 1;
  BP_ASSIGN(auto rows, world_.journal.ended(by_name));
  if (!rows.empty()) return std::move(rows.front());
  return Error{ErrorCode::kNotFound, "no deployment or run " + id_or_name, {}};
}

Result<std::vector<storage::EndedRow>> Conductor::ended(const storage::EndedQuery& query) const {
  std::vector<storage::EndedRow> rows;
  for (const auto& row : ended_) {
    auto current = ended_by_number_.find(row.run_number);
    if (current != ended_by_number_.end() && current->second == &row && matches(row, query))
      rows.push_back(row);
  }
  BP_ASSIGN(auto older, world_.journal.ended(query));
  for (auto& row : older) {
    // One that lives again, or that both know.
    if (!ended_by_number_.count(row.run_number) && !runs_.count(row.run_number))
      rows.push_back(std::move(row));
  }
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.run_number > b.run_number; });
  if (rows.size() > query.limit) rows.resize(query.limit);
  return rows;
}

Result<core::RunState> Conductor::rebuild(uint64_t run_number, uint64_t last_commit) {
  BP_ASSIGN(auto entries, world_.journal.history(run_number, last_commit));
  core::RunState state;
  for (const auto& entry : entries) {
    v1::Event event;
    if (!entry.body_hash.empty() || !event.ParseFromString(entry.body)) {
      return Error{ErrorCode::kJournal,
                   "run number " + std::to_string(run_number) + ": event " +
                       std::to_string(entry.run_seq) + " cannot be read",
                   {}};
    }
    try {
      (void)core::apply(state, std::move(event), workflows_);
    } catch (const core::Fault& fault) {
      return Error{ErrorCode::kInternal,
                   "run number " + std::to_string(run_number) + ": event " +
                       std::to_string(entry.run_seq) + ": " + fault.what(),
                   {}};
    }
  }
  state.last_commit = last_commit;
  return state;
}

Status Conductor::revive(const std::string& run_id) {
  if (run_of(run_id)) return {};
  BP_ASSIGN(auto row, find_ended(run_id));
  BP_ASSIGN(auto state, rebuild(row.run_number, row.last_commit));
  auto& run = *(runs_[row.run_number] = std::make_unique<Run>());
  run.state = std::move(state);
  run.started = true;
  if (number_of_id(row.run_id) != row.run_number) other_ids_[row.run_id] = row.run_number;
  return {};
}

void Conductor::forget(const std::string& run_id) {
  Run* run = run_of(run_id);
  if (!run || !core::is_ended(run->state.state())) return;
  const uint64_t number = run->state.run_number;
  other_ids_.erase(run_id);
  runs_.erase(number);
}

// Only what the effects of are through: `ended` refers to it.
void Conductor::drop_searchable() {
  if (ended_.empty()) return;
  const uint64_t first_open = in_flight_.empty() ? last_number_ + 1
                                                 : last_number_ + 1 - in_flight_.size();
  const uint64_t until = std::min(world_.journal.searchable_up_to(), first_open - 1);
  while (!ended_.empty() && ended_.front().last_commit <= until) {
    const storage::EndedRow& row = ended_.front();
    auto it = ended_by_number_.find(row.run_number);
    if (it != ended_by_number_.end() && it->second == &row) {
      ended_by_number_.erase(it);
      auto key = ended_keys_.find(row.idempotency_key);
      if (key != ended_keys_.end() && key->second == row.run_number) ended_keys_.erase(key);
    }
    ended_.pop_front();
  }
}

}  // namespace bp::shell
