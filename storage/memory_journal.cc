#include "storage/memory_journal.h"

#include <algorithm>

#include "storage/chain_check.h"

namespace bp::storage {

void MemoryJournal::commit(Commit c, std::function<void(Status)> done) {
  if (held_) {
    waiting_.emplace_back(std::move(c), std::move(done));
    return;
  }
  done(store(c));
}

void MemoryJournal::release() {
  held_ = false;
  while (!waiting_.empty() && !held_) {
    auto [c, done] = std::move(waiting_.front());
    waiting_.pop_front();
    done(store(c));
  }
}

void MemoryJournal::drop_held() {
  held_ = false;
  waiting_.clear();
}

Status MemoryJournal::store(const Commit& c) {
  if (broken_) return *broken_;
  Record record;
  Status ok = check_commit(c, last());
  if (ok) {
    const bool first = records_.empty();
    ok = encoder_.encode(c, first ? std::string() : records_.back().root,
                         first ? 0 : records_.back().header.last_run_number, record);
  }
  if (!ok) {
    broken_ = ok.error();
    return ok;
  }
  records_.push_back(std::move(record));
  for (uint64_t run : c.drop_live) live_.erase(run);
  for (const LiveRow& r : c.put_live) live_[r.run_number] = r;
  for (uint64_t run : c.revived) ended_.erase(run);
  for (const EndedRow& r : c.ended) ended_[r.run_number] = r;
  for (uint64_t run : c.drop_secrets_of_runs) secrets_.erase(run);
  for (const auto& s : c.put_secrets) secrets_[s.run_number][s.name] = s.sealed;
  for (const std::string& key : c.drop_meta) meta_.erase(key);
  for (const auto& [key, value] : c.put_meta) meta_[key] = value;
  for (const std::string& hash : c.drop_blobs) blobs_.erase(hash);
  for (const auto& [hash, bytes] : c.put_blobs) blobs_[hash] = bytes;
  return {};
}

Result<Recovered> MemoryJournal::recover() {
  Recovered r;
  for (const auto& [number, row] : live_) r.live.push_back(row);
  r.last_commit = last();
  if (!records_.empty()) {
    r.replay_from = records_.back().header.replay_from;
    r.last_run_number = records_.back().header.last_run_number;
  }
  r.incarnation = incarnation_;
  r.meta = meta_;
  return r;
}

Status MemoryJournal::read_log(uint64_t from, uint64_t to,
                               const std::function<Status(const LogRecord&)>& each) {
  for (uint64_t n = std::max<uint64_t>(from, 1); n <= std::min(to, last()); ++n) {
    BP_ASSIGN(LogRecord record, decode_record(records_[size_t(n - 1)]));
    BP_TRY(each(record));
  }
  return {};
}

Result<std::vector<Entry>> MemoryJournal::history(uint64_t run_number, uint64_t last_commit,
                                                  uint64_t after_run_seq) {
  return history_of(
      [this](uint64_t n) -> Result<std::optional<Record>> {
        if (n == 0 || n > last()) return std::optional<Record>();
        return std::optional<Record>(records_[size_t(n - 1)]);
      },
      run_number, last_commit, after_run_seq);
}

Result<std::vector<EndedRow>> MemoryJournal::ended(const EndedQuery& query) {
  std::vector<EndedRow> rows;
  for (auto it = ended_.rbegin(); it != ended_.rend() && rows.size() < query.limit; ++it) {
    if (matches(it->second, query)) rows.push_back(it->second);
  }
  return rows;
}

Result<std::optional<EndedRow>> MemoryJournal::ended_by_number(uint64_t run_number) {
  auto it = ended_.find(run_number);
  return it == ended_.end() ? std::optional<EndedRow>() : std::optional<EndedRow>(it->second);
}

Result<std::optional<EndedRow>> MemoryJournal::ended_by_key(const std::string& key) {
  if (key.empty() || records_.empty()) return std::optional<EndedRow>();
  const int64_t since = records_.back().header.wall_ms - kKeyKeptMs;
  for (auto it = ended_.rbegin(); it != ended_.rend(); ++it) {
    if (it->second.idempotency_key == key && it->second.ended_wall_ms >= since)
      return std::optional<EndedRow>(it->second);
  }
  return std::optional<EndedRow>();
}

Result<std::map<int, uint64_t>> MemoryJournal::ended_counts() {
  std::map<int, uint64_t> counts;
  for (const auto& [number, row] : ended_) ++counts[row.state];
  return counts;
}

Result<std::map<std::string, std::string>> MemoryJournal::secrets_of(uint64_t run_number) {
  auto it = secrets_.find(run_number);
  return it == secrets_.end() ? std::map<std::string, std::string>{} : it->second;
}

Result<std::optional<std::string>> MemoryJournal::blob(const std::string& hash) {
  auto it = blobs_.find(hash);
  return it == blobs_.end() ? std::optional<std::string>() : std::optional<std::string>(it->second);
}

Result<std::vector<std::string>> MemoryJournal::check(const CheckOptions& options) {
  std::vector<std::string> lines;
  for (const auto& [number, row] : live_) {
    if (ended_.count(number)) lines.push_back("a live row of the ended run " + row.run_id);
    if (row.last_commit > last())
      lines.push_back("the live row of run " + row.run_id + " is ahead of the log");
  }
  if (!options.chain) return lines;
  ChainCheck chain(0, {});
  for (const Record& r : records_) chain.record(r);
  for (const Finding& f : chain.findings()) lines.push_back(f.to_line());
  return lines;
}

}  // namespace bp::storage
