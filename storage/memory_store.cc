#include "storage/memory_store.h"

#include <algorithm>
#include <set>

namespace bp::storage {
namespace {

Error refused(const std::string& what) {
  return {ErrorCode::kJournal, "refused by the journal: " + what, {}};
}

}  // namespace

void MemoryStore::commit(Batch batch, std::function<void(Status)> done) {
  if (held_) {
    waiting_.emplace_back(std::move(batch), std::move(done));
    return;
  }
  done(store(batch));
}

void MemoryStore::release() {
  held_ = false;
  while (!waiting_.empty() && !held_) {
    auto [batch, done] = std::move(waiting_.front());
    waiting_.pop_front();
    done(store(batch));
  }
}

void MemoryStore::drop_held() {
  held_ = false;
  waiting_.clear();
}

// Everything that a database would refuse by a constraint.
Status MemoryStore::refuse(const Batch& batch) const {
  uint64_t seq = events_.empty() ? 0 : events_.back().seq;
  std::map<std::string, uint64_t> run_seq;
  for (const EventRow& e : batch.events) {
    if (e.seq != ++seq)
      return refused("event " + std::to_string(e.seq) + " does not follow the last one");
    auto known = last_run_seq_.find(e.run_id);
    auto [it, fresh] =
        run_seq.try_emplace(e.run_id, known == last_run_seq_.end() ? 0 : known->second);
    if (e.run_seq != ++it->second)
      return refused("run_seq of event " + std::to_string(e.seq) + " leaves a gap");
  }
  std::map<std::string, RunRow> runs;
  for (const RunRow& r : batch.put_runs) runs[r.run_id] = r;
  for (const auto& [id, row] : runs_) runs.try_emplace(id, row);
  std::set<std::string> names, keys;
  std::set<uint64_t> numbers;
  for (const auto& [id, r] : runs) {
    if (r.live && !names.insert(r.name).second)
      return refused("two live runs are called " + r.name);
    if (!r.idempotency_key.empty() && !keys.insert(r.idempotency_key).second) {
      return refused("two runs have one idempotency key");
    }
    if (r.run_number == 0 || !numbers.insert(r.run_number).second)
      return refused("two runs have one number");
  }
  for (const StageRow& s : batch.put_stages) {
    if (!runs.count(s.run_id)) return refused("stage " + s.stage + " belongs to no run");
  }
  for (const TimerRow& t : batch.put_timers) {
    if (!runs.count(t.run_id)) return refused("a timer of " + t.stage + " belongs to no run");
  }
  return {};
}

Status MemoryStore::store(const Batch& batch) {
  if (broken_) return *broken_;
  if (Status ok = refuse(batch); !ok) {
    broken_ = ok.error();
    return ok;
  }
  for (const EventRow& e : batch.events) {
    events_.push_back(e);
    last_run_seq_[e.run_id] = e.run_seq;
  }
  for (const RunRow& r : batch.put_runs) runs_[r.run_id] = r;
  for (const StageRow& s : batch.put_stages) stages_[{s.run_id, s.stage, s.map_index}] = s;
  for (const TimerRow& t : batch.drop_timers)
    timers_.erase({t.run_id, t.stage, t.map_index, t.kind});
  for (const TimerRow& t : batch.put_timers) timers_[{t.run_id, t.stage, t.map_index, t.kind}] = t;
  for (const std::string& id : batch.drop_secrets_of_runs) secrets_.erase(id);
  for (const auto& s : batch.put_secrets) secrets_[s.run_id][s.name] = s.sealed;
  for (const auto& [key, value] : batch.put_meta) meta_[key] = value;
  ++commits_;
  return {};
}

Result<LiveState> MemoryStore::load_live() {
  LiveState live;
  for (const auto& [id, r] : runs_) {
    live.last_run_number = std::max(live.last_run_number, r.run_number);
    if (r.live) live.runs.push_back(r);
  }
  std::sort(live.runs.begin(), live.runs.end(),
            [](const RunRow& a, const RunRow& b) { return a.run_number < b.run_number; });
  for (const auto& [id, s] : stages_) {
    if (runs_.at(s.run_id).live) live.stages.push_back(s);
  }
  for (const auto& [id, t] : timers_) live.timers.push_back(t);
  live.last_seq = events_.empty() ? 0 : events_.back().seq;
  live.incarnation = incarnation_;
  live.meta = meta_;
  return live;
}

Result<RunRow> MemoryStore::find_run(const std::string& id_or_name) {
  auto it = runs_.find(id_or_name);
  if (it != runs_.end()) return it->second;
  const RunRow* best = nullptr;
  for (const auto& [id, r] : runs_) {
    if (r.name != id_or_name) continue;
    const bool better = !best || (r.live && !best->live) ||
                        (r.live == best->live && r.run_number > best->run_number);
    if (better) best = &r;
  }
  if (best) return *best;
  return Error{ErrorCode::kNotFound, "there is no deployment \"" + id_or_name + "\"", {}};
}

Result<std::optional<RunRow>> MemoryStore::find_idempotency_key(const std::string& key) {
  for (const auto& [id, r] : runs_) {
    if (!key.empty() && r.idempotency_key == key) return std::optional<RunRow>(r);
  }
  return std::optional<RunRow>();
}

Result<std::vector<RunRow>> MemoryStore::list_runs(bool all, uint32_t limit) {
  std::vector<RunRow> rows;
  for (const auto& [id, r] : runs_) {
    if (all || r.live) rows.push_back(r);
  }
  std::sort(rows.begin(), rows.end(),
            [](const RunRow& a, const RunRow& b) { return a.run_number > b.run_number; });
  if (rows.size() > limit) rows.resize(limit);
  return rows;
}

Result<std::vector<StageRow>> MemoryStore::stages_of(const std::string& run_id) {
  std::vector<StageRow> rows;
  for (const auto& [id, s] : stages_) {
    if (s.run_id == run_id) rows.push_back(s);
  }
  return rows;
}

Result<std::vector<EventRow>> MemoryStore::events_of(const std::string& run_id,
                                                     uint64_t after_run_seq, uint32_t limit) {
  std::vector<EventRow> rows;
  for (const EventRow& e : events_) {
    if (e.run_id == run_id && e.run_seq > after_run_seq && rows.size() < limit) rows.push_back(e);
  }
  return rows;
}

Result<std::map<std::string, std::string>> MemoryStore::secrets_of(const std::string& run_id) {
  auto it = secrets_.find(run_id);
  return it == secrets_.end() ? std::map<std::string, std::string>{} : it->second;
}

Result<std::vector<std::string>> MemoryStore::check() {
  std::vector<std::string> found;
  for (const auto& [id, t] : timers_) {
    auto run = runs_.find(t.run_id);
    if (run == runs_.end() || !run->second.live)
      found.push_back("a timer of " + t.stage + " belongs to no live run");
    if (!stages_.count({t.run_id, t.stage, t.map_index}))
      found.push_back("a timer of the unknown stage " + t.stage);
  }
  return found;
}

}  // namespace bp::storage
