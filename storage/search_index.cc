#include "storage/search_index.h"

#include <sodium.h>
#include <unistd.h>

#include <algorithm>

#include "storage/varint.h"

namespace bp::storage {
namespace {

constexpr int kSearchVersion = 1;
constexpr size_t kMergeBelowRuns = 64;  // small batches add to the posting before them
constexpr size_t kMergeBelowBytes = 1024;

constexpr const char* kTables = R"sql(
CREATE TABLE runs(run_number INTEGER PRIMARY KEY, row BLOB NOT NULL) STRICT;
CREATE TABLE postings(
  segment INTEGER NOT NULL, term INTEGER NOT NULL, batch INTEGER NOT NULL, numbers BLOB NOT NULL,
  PRIMARY KEY(segment, term, batch)) WITHOUT ROWID, STRICT;
CREATE TABLE segments(
  segment INTEGER PRIMARY KEY, created_min INTEGER NOT NULL, created_max INTEGER NOT NULL,
  ended_min INTEGER NOT NULL, ended_max INTEGER NOT NULL) STRICT;
CREATE TABLE counts(state INTEGER PRIMARY KEY, runs INTEGER NOT NULL) STRICT;
CREATE TABLE keys(batch INTEGER PRIMARY KEY, newest_ms INTEGER NOT NULL, hashes BLOB NOT NULL) STRICT;
CREATE TABLE facts(key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT;
)sql";

Result<Database> open_or_create(const std::string& path, const std::string& vfs) {
  BP_ASSIGN(Database db, Database::open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs));
  BP_ASSIGN(int64_t version, db.number("PRAGMA user_version"));
  if (version != kSearchVersion && version != 0)
    return Error{ErrorCode::kJournal, path + " has search version " + std::to_string(version), {}};
  for (const char* pragma : {"page_size = 8192", "journal_mode = WAL", "synchronous = NORMAL",
                             "wal_autocheckpoint = 4000", "cache_size = -16384"}) {
    BP_TRY(db.exec(std::string("PRAGMA ") + pragma));
  }
  if (version == 0) {
    BP_TRY(db.exec("BEGIN IMMEDIATE"));
    BP_TRY(db.exec(kTables));
    BP_TRY(db.exec("PRAGMA user_version = " + std::to_string(kSearchVersion)));
    BP_TRY(db.exec("COMMIT"));
  }
  return db;
}

}  // namespace

int64_t search_term(std::string_view field, std::string_view value) {
  static constexpr unsigned char kKey[crypto_shorthash_KEYBYTES] = {'b', 'p', ' ', 's', 'e', 'a'};
  thread_local std::string text;
  text.assign(field);
  text.push_back('\0');
  text.append(value);
  unsigned char out[crypto_shorthash_BYTES];
  crypto_shorthash(out, reinterpret_cast<const unsigned char*>(text.data()), text.size(), kKey);
  return int64_t(get_u64({reinterpret_cast<const char*>(out), sizeof out}));
}

Result<SearchChange> search_change(const Record& record) {
  SearchChange c{record.header.number, record.header.wall_ms, record.root, {}, {}};
  RecordItems items(record);
  Item item;
  while (true) {
    BP_ASSIGN(bool more, items.next(item));
    if (!more) return c;
    if (item.kind == ItemKind::kRevived) c.revived.push_back(item.run_number);
    if (item.kind != ItemKind::kEnded || item.erased) continue;
    BP_ASSIGN(EndedRow row, decode_ended(item.body));
    c.ended.push_back(std::move(row));
  }
}

Result<SearchWriter> SearchWriter::open(const std::string& path, const std::string& vfs) {
  SearchWriter w;
  Result<Database> db = open_or_create(path, vfs);
  if (!db && db.error().code == ErrorCode::kJournal) {  // it can be built anew
    for (const char* suffix : {"", "-wal", "-shm"}) ::unlink((path + suffix).c_str());
    db = open_or_create(path, vfs);
  }
  if (!db) return std::move(db).error();
  w.db_ = std::move(db).value();
  BP_TRY(w.prepare_all());
  auto number = [&](const char* key) -> Result<uint64_t> {
    BP_ASSIGN(std::string text,
              w.db_.text("SELECT value FROM facts WHERE key = '" + std::string(key) + "'"));
    return text.empty() ? Result<uint64_t>(uint64_t{0}) : read_number(text, "its search index");
  };
  BP_ASSIGN(w.watermark_, number("watermark"));
  BP_ASSIGN(w.batch_, number("batch"));
  BP_ASSIGN(w.root_, w.db_.text("SELECT value FROM facts WHERE key = 'root'"));
  w.added_up_to_ = w.watermark_;
  return w;
}

Status SearchWriter::prepare_all() {
  const std::pair<Statement*, const char*> all[] = {
      {&run_, "INSERT INTO runs(run_number, row) VALUES(?, ?) ON CONFLICT DO NOTHING"},
      {&old_run_, "SELECT row FROM runs WHERE run_number = ?"},
      {&drop_, "DELETE FROM runs WHERE run_number = ?"},
      {&posting_,
       "INSERT INTO postings(segment, term, batch, numbers) VALUES(?, ?, ?, ?) ON CONFLICT DO "
       "UPDATE SET numbers = excluded.numbers"},
      {&last_posting_,
       "SELECT batch, numbers FROM postings WHERE segment = ? AND term = ? ORDER BY batch DESC "
       "LIMIT 1"},
      {&segment_,
       "INSERT INTO segments(segment, created_min, created_max, ended_min, ended_max) "
       "VALUES(?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
       "created_min = min(created_min, excluded.created_min), "
       "created_max = max(created_max, excluded.created_max), "
       "ended_min = min(ended_min, excluded.ended_min), "
       "ended_max = max(ended_max, excluded.ended_max)"},
      {&count_,
       "INSERT INTO counts(state, runs) VALUES(?, ?) ON CONFLICT DO UPDATE SET "
       "runs = runs + excluded.runs"},
      {&keys_, "INSERT INTO keys(batch, newest_ms, hashes) VALUES(?, ?, ?)"},
      {&drop_keys_, "DELETE FROM keys WHERE newest_ms < ?"},
      {&fact_,
       "INSERT INTO facts(key, value) VALUES(?, ?) ON CONFLICT DO UPDATE SET value = "
       "excluded.value"},
  };
  for (const auto& [statement, sql] : all) {
    BP_ASSIGN(*statement, Statement::prepare(db_.get(), sql));
  }
  return {};
}

void SearchWriter::add(SearchChange change) {
  added_up_to_ = change.commit;
  pending_runs_ += change.ended.size() + change.revived.size();
  wall_ms_ = change.wall_ms;
  root_ = std::move(change.root);
  if (!change.ended.empty() || !change.revived.empty()) pending_.push_back(std::move(change));
}

Status SearchWriter::flush() {
  if (added_up_to_ == watermark_) return {};
  BP_TRY(db_.exec("BEGIN IMMEDIATE"));
  Status done = write();
  if (done.ok()) done = db_.exec("COMMIT");
  if (!done.ok()) {
    sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
    return done;
  }
  for (const auto& [hash, wall_ms] : key_times_) filter_->add(hash, wall_ms, kKeyKeptMs);
  watermark_ = added_up_to_;
  pending_.clear();
  pending_runs_ = 0;
  return {};
}

Status SearchWriter::write() {
  postings_.clear();
  segments_.clear();
  counts_.clear();
  keys_of_batch_.clear();
  key_times_.clear();
  ++batch_;
  for (const SearchChange& c : pending_) {
    for (uint64_t run : c.revived) BP_TRY(drop_run(run));
    for (const EndedRow& row : c.ended) {
      BP_TRY(put_run(row));
      note_terms(row);
    }
  }
  BP_TRY(put_postings());
  BP_TRY(put_segments());
  BP_TRY(put_keys());
  return put_watermark();
}

Status SearchWriter::put_run(const EndedRow& row) {
  buffer_.clear();
  encode_ended(row, buffer_);
  for (int tries = 0; tries < 2; ++tries) {
    run_.num(int64_t(row.run_number)).blob(buffer_);
    BP_TRY(run_.run());
    if (sqlite3_changes(db_.get()) == 1) break;
    BP_TRY(drop_run(row.run_number));  // it had ended before
  }
  ++counts_[row.state];
  return {};
}

Status SearchWriter::drop_run(uint64_t run) {
  old_run_.num(int64_t(run));
  BP_ASSIGN(bool there, old_run_.step());
  if (there) {
    Result<EndedRow> old = decode_ended(old_run_.bytes_at(0));
    old_run_.reset();
    if (!old) return std::move(old).error();
    --counts_[old->state];
  }
  old_run_.reset();
  drop_.num(int64_t(run));
  return drop_.run();
}

void SearchWriter::note_terms(const EndedRow& r) {
  const uint64_t segment = r.run_number >> kSegmentBits;
  const auto offset = uint16_t(r.run_number & ((1 << kSegmentBits) - 1));
  auto note = [&](std::string_view field, std::string_view value) {
    if (!value.empty()) postings_.push_back({segment, search_term(field, value), offset});
  };
  note("name", r.name);
  note("workflow", r.workflow);
  note("state", std::to_string(r.state));
  note("error", r.error_code);
  for (const auto& [key, value] : r.labels) note(key + "=", value);
  if (!r.idempotency_key.empty()) {
    note("key", r.idempotency_key);
    const auto hash = uint64_t(postings_.back().term);
    put_u64(hash, keys_of_batch_);
    key_times_.emplace_back(hash, r.ended_wall_ms);
    newest_key_ms_ = std::max(newest_key_ms_, r.ended_wall_ms);
  }
  auto [it, fresh] = segments_.try_emplace(
      segment, Segment{r.created_wall_ms, r.created_wall_ms, r.ended_wall_ms, r.ended_wall_ms});
  Segment& s = it->second;
  s.created_min = std::min(s.created_min, r.created_wall_ms);
  s.created_max = std::max(s.created_max, r.created_wall_ms);
  s.ended_min = std::min(s.ended_min, r.ended_wall_ms);
  s.ended_max = std::max(s.ended_max, r.ended_wall_ms);
}

// Sorted, so that the tree is filled in its order and each term of a batch gives one row.
Status SearchWriter::put_postings() {
  std::sort(postings_.begin(), postings_.end(), [](const Posting& a, const Posting& b) {
    return std::tie(a.segment, a.term, a.offset) < std::tie(b.segment, b.term, b.offset);
  });
  const bool merge = pending_runs_ < kMergeBelowRuns;
  for (size_t i = 0; i < postings_.size();) {
    const Posting first = postings_[i];
    std::vector<uint16_t> offsets;
    for (; i < postings_.size() && postings_[i].segment == first.segment &&
           postings_[i].term == first.term;
         ++i) {
      if (offsets.empty() || offsets.back() != postings_[i].offset)
        offsets.push_back(postings_[i].offset);
    }
    uint64_t batch = batch_;
    if (merge) {
      last_posting_.num(int64_t(first.segment)).num(first.term);
      BP_ASSIGN(bool there, last_posting_.step());
      const std::string before = there ? last_posting_.bytes_at(1) : std::string();
      if (there && before.size() < kMergeBelowBytes) {
        batch = uint64_t(last_posting_.int_at(0));
        read_posting(before, offsets);
        std::sort(offsets.begin(), offsets.end());
        offsets.erase(std::unique(offsets.begin(), offsets.end()), offsets.end());
      }
      last_posting_.reset();
    }
    buffer_.clear();
    uint16_t previous = 0;
    for (uint16_t offset : offsets) {
      put_varint(uint64_t(offset - previous), buffer_);
      previous = offset;
    }
    posting_.num(int64_t(first.segment)).num(first.term).num(int64_t(batch)).blob(buffer_);
    BP_TRY(posting_.run());
  }
  return {};
}

void read_posting(std::string_view bytes, std::vector<uint16_t>& offsets) {
  size_t at = 0;
  uint64_t offset = 0;
  while (at < bytes.size()) {
    const auto gap = get_varint(bytes, at);
    if (!gap || offset + *gap >= (1u << kSegmentBits)) return;
    offset += *gap;
    offsets.push_back(uint16_t(offset));
  }
}

Status SearchWriter::put_segments() {
  for (const auto& [number, s] : segments_) {
    segment_.num(int64_t(number))
        .num(s.created_min)
        .num(s.created_max)
        .num(s.ended_min)
        .num(s.ended_max);
    BP_TRY(segment_.run());
  }
  for (const auto& [state, change] : counts_) {
    count_.num(state).num(change);
    BP_TRY(count_.run());
  }
  return {};
}

Status SearchWriter::put_keys() {
  if (keys_of_batch_.empty()) return {};
  keys_.num(int64_t(batch_)).num(newest_key_ms_).blob(keys_of_batch_);
  BP_TRY(keys_.run());
  drop_keys_.num(newest_key_ms_ - 2 * kKeyKeptMs);
  return drop_keys_.run();
}

Status SearchWriter::put_watermark() {
  const std::pair<const char*, std::string> facts[] = {{"watermark", std::to_string(added_up_to_)},
                                                       {"batch", std::to_string(batch_)},
                                                       {"root", root_}};
  for (const auto& [key, value] : facts) {
    fact_.text(key).blob(value);
    BP_TRY(fact_.run());
  }
  return {};
}

Status SearchWriter::remove(const std::vector<uint64_t>& runs) {
  BP_TRY(flush());
  counts_.clear();
  BP_TRY(db_.exec("BEGIN IMMEDIATE"));
  Status done;
  for (size_t i = 0; i < runs.size() && done.ok(); ++i) done = drop_run(runs[i]);
  if (done.ok()) {
    segments_.clear();
    done = put_segments();
  }
  if (done.ok()) done = db_.exec("COMMIT");
  if (!done.ok()) sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  return done;
}

Status SearchWriter::clear() {
  pending_.clear();
  pending_runs_ = 0;
  watermark_ = added_up_to_ = 0;
  root_.clear();
  filter_->clear();
  return db_.exec(
      "BEGIN IMMEDIATE; DELETE FROM runs; DELETE FROM postings; DELETE FROM segments; "
      "DELETE FROM counts; DELETE FROM keys; DELETE FROM facts; COMMIT");
}

Status SearchWriter::load_filter(int64_t now_wall_ms) {
  BP_ASSIGN(Statement s, Statement::prepare(
                             db_.get(), "SELECT newest_ms, hashes FROM keys WHERE newest_ms >= ?"));
  s.num(now_wall_ms - kKeyKeptMs);
  while (true) {
    BP_ASSIGN(bool row, s.step());
    if (!row) return {};
    const std::string hashes = s.bytes_at(1);
    for (size_t at = 0; at + 8 <= hashes.size(); at += 8)
      filter_->add(get_u64(std::string_view(hashes).substr(at, 8)), s.int_at(0), kKeyKeptMs);
  }
}

}  // namespace bp::storage
