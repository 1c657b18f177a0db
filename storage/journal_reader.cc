#include "storage/journal_reader.h"

#include <algorithm>

#include "storage/journal_schema.h"

namespace bp::storage {
namespace {

constexpr uint64_t kPageRecords = 64;  // of one read transaction of each_record

Record record_at(const Statement& s, int column) {
  Record r;
  r.header = {uint64_t(s.int_at(column)), uint64_t(s.int_at(column + 1)), s.int_at(column + 2),
              uint64_t(s.int_at(column + 3)), uint64_t(s.int_at(column + 4))};
  r.root = s.bytes_at(column + 5);
  r.body = s.bytes_at(column + 6);
  return r;
}

constexpr const char* kRecord =
    "SELECT number, replay_from, wall_ms, count, last_run_number, root, body FROM log ";

int64_t as_key(uint64_t number) { return int64_t(std::min<uint64_t>(number, INT64_MAX)); }

}  // namespace

Result<JournalReader> JournalReader::open(const std::string& path, const std::string& vfs) {
  JournalReader r;
  BP_ASSIGN(r.db_, Database::open(path, SQLITE_OPEN_READONLY, vfs));
  BP_ASSIGN(int64_t application, r.db_.number("PRAGMA application_id"));
  BP_ASSIGN(int64_t version, r.db_.number("PRAGMA user_version"));
  if (application != kJournalApplicationId)
    return Error{ErrorCode::kJournal, path + " is a database, but not a journal of bp-daemon", {}};
  if (version != kJournalVersion) {
    return Error{ErrorCode::kJournal,
                 path + " has schema version " + std::to_string(version) + ", expected " +
                     std::to_string(kJournalVersion),
                 version < kJournalVersion ? "Start the daemon on it: it migrates the journal"
                                           : "Use the newer release that wrote it"};
  }
  BP_ASSIGN(r.fetch_, Statement::prepare(r.db_.get(), std::string(kRecord) + "WHERE number = ?"));
  BP_ASSIGN(r.page_, Statement::prepare(r.db_.get(), std::string(kRecord) +
                                                         "WHERE number BETWEEN ? AND ? ORDER BY "
                                                         "number LIMIT ?"));
  return r;
}

Result<Recovered> JournalReader::load() {
  Recovered out;
  BP_ASSIGN(Statement live,
            Statement::prepare(db_.get(),
                               "SELECT run_number, run_id, name, state, run_seq, last_commit, "
                               "actor, by_boot_ms, why, body FROM live ORDER BY run_number"));
  while (true) {
    BP_ASSIGN(bool row, live.step());
    if (!row) break;
    LiveRow r;
    r.run_number = uint64_t(live.int_at(0));
    r.run_id = live.bytes_at(1);
    r.name = live.bytes_at(2);
    r.state = int(live.int_at(3));
    r.run_seq = uint64_t(live.int_at(4));
    r.last_commit = uint64_t(live.int_at(5));
    r.next = {Actor(live.int_at(6)), live.int_at(7)};
    r.why = live.bytes_at(8);
    r.body = live.bytes_at(9);
    out.live.push_back(std::move(r));
  }
  BP_ASSIGN(Statement meta, Statement::prepare(db_.get(), "SELECT key, value FROM meta"));
  while (true) {
    BP_ASSIGN(bool row, meta.step());
    if (!row) break;
    out.meta[meta.bytes_at(0)] = meta.bytes_at(1);
  }
  BP_ASSIGN(Statement last,
            Statement::prepare(db_.get(),
                               "SELECT number, replay_from, last_run_number FROM log ORDER BY "
                               "number DESC LIMIT 1"));
  BP_ASSIGN(bool row, last.step());
  if (row) {
    out.last_commit = uint64_t(last.int_at(0));
    out.replay_from = uint64_t(last.int_at(1));
    out.last_run_number = uint64_t(last.int_at(2));
  }
  BP_ASSIGN(std::string incarnation, fact(db_, "incarnation"));
  if (!incarnation.empty()) {
    BP_ASSIGN(out.incarnation, read_number(incarnation, "its incarnation"));
  }
  return out;
}

// One read transaction: all tables as of one commit.
Result<Recovered> JournalReader::recover() {
  BP_TRY(db_.exec("BEGIN"));
  Result<Recovered> out = load();
  Status ended = db_.exec("COMMIT");
  if (out.ok() && !ended.ok()) return std::move(ended).error();
  return out;
}

Result<std::optional<Record>> JournalReader::fetch(uint64_t number) {
  fetch_.num(as_key(number));
  Result<bool> row = fetch_.step();
  if (!row) return std::move(row).error();
  std::optional<Record> out;
  if (*row) out = record_at(fetch_, 0);
  fetch_.reset();
  return out;
}

Status JournalReader::each_record(uint64_t from, uint64_t to,
                                  const std::function<Status(const Record&)>& each) {
  for (uint64_t at = from; at <= to;) {
    std::vector<Record> page;
    size_t bytes = 0;
    page_.num(as_key(at)).num(as_key(to)).num(kPageRecords);
    while (bytes < 8 << 20) {
      Result<bool> row = page_.step();
      if (!row) return std::move(row).error();
      if (!*row) break;
      page.push_back(record_at(page_, 0));
      bytes += page.back().body.size();
    }
    page_.reset();
    if (page.empty()) return {};
    for (const Record& r : page) BP_TRY(each(r));
    at = page.back().header.number + 1;
  }
  return {};
}

Result<std::vector<Entry>> JournalReader::history(uint64_t run_number, uint64_t last_commit,
                                                  uint64_t after_run_seq) {
  Result<std::vector<Entry>> found =
      history_of([this](uint64_t n) { return fetch(n); }, run_number, last_commit, after_run_seq);
  const bool gone = found.ok() ? std::any_of(found->begin(), found->end(),
                                             [](const Entry& e) { return !e.body_hash.empty(); })
                               : found.error().code == ErrorCode::kNotFound;
  if (!gone) return found;
  BP_ASSIGN(Statement s, Statement::prepare(db_.get(),
                                            "SELECT path FROM archives WHERE ? BETWEEN first_run "
                                            "AND last_run ORDER BY wall_ms DESC LIMIT 8"));
  s.num(as_key(run_number));
  std::string where;
  while (true) {
    BP_ASSIGN(bool row, s.step());
    if (!row) break;
    where += (where.empty() ? "" : " or ") + s.bytes_at(0);
  }
  if (where.empty()) return found;
  return Error{ErrorCode::kNotFound,
               "run " + std::to_string(run_number) + " was archived, see " + where,
               "Open the archive: bp show --archive FILE"};
}

Result<std::map<std::string, std::string>> JournalReader::secrets_of(uint64_t run_number) {
  BP_ASSIGN(Statement s,
            Statement::prepare(db_.get(), "SELECT name, sealed FROM secrets WHERE run_number = ?"));
  s.num(as_key(run_number));
  std::map<std::string, std::string> out;
  while (true) {
    BP_ASSIGN(bool row, s.step());
    if (!row) return out;
    out[s.bytes_at(0)] = s.bytes_at(1);
  }
}

Result<std::optional<std::string>> JournalReader::blob(const std::string& hash) {
  BP_ASSIGN(Statement s, Statement::prepare(db_.get(), "SELECT body FROM blobs WHERE hash = ?"));
  s.text(hash);
  BP_ASSIGN(bool row, s.step());
  return row ? std::optional<std::string>(s.bytes_at(0)) : std::optional<std::string>();
}

Result<std::optional<uint64_t>> JournalReader::number_of_old_id(const std::string& run_id) {
  BP_ASSIGN(Statement s,
            Statement::prepare(db_.get(), "SELECT run_number FROM old_ids WHERE run_id = ?"));
  s.text(run_id);
  BP_ASSIGN(bool row, s.step());
  return row ? std::optional<uint64_t>(uint64_t(s.int_at(0))) : std::optional<uint64_t>();
}

Result<std::pair<uint64_t, uint64_t>> JournalReader::range() {
  BP_ASSIGN(int64_t first, db_.number("SELECT min(number) FROM log"));
  BP_ASSIGN(int64_t last, db_.number("SELECT max(number) FROM log"));
  return std::pair(uint64_t(first), uint64_t(last));
}

Result<JournalReader::Anchor> JournalReader::anchor() {
  Anchor a;
  BP_ASSIGN(std::string number, fact(db_, "anchor_number"));
  if (number.empty()) return a;
  BP_ASSIGN(a.number, read_number(number, "its anchor"));
  BP_ASSIGN(a.root, fact(db_, "anchor_root"));
  return a;
}

}  // namespace bp::storage
