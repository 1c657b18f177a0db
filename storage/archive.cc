// Erasing, archiving and dropping. Order of an archive: the file is made, synced and checked; it is
// written down in the journal as begun; the runs' bodies are erased; they leave the search; it is
// written down as done. Cut off anywhere, the next call finishes it from the file.
#include <chrono>
#include <unordered_set>

#include "storage/journal_file.h"
#include "storage/journal_reader.h"
#include "storage/journal_schema.h"
#include "storage/new_file.h"
#include "storage/search_index.h"

namespace bp::storage {
namespace {

constexpr size_t kWriteAtOnceBytes = 1 << 20;  // of one transaction of the writer
constexpr uint64_t kDropAtOnce = 2000;

using Runs = std::unordered_set<uint64_t>;

/// Writes changed bodies back, a little at a time.
class BodyWriter {
 public:
  BodyWriter(SqliteJournal& journal, Pacer& pacer) : journal_(journal), pacer_(pacer) {}
  Status put(uint64_t number, std::string body) {
    bytes_ += body.size();
    changes_.emplace_back(number, std::move(body));
    return bytes_ >= kWriteAtOnceBytes ? flush() : Status();
  }
  Status flush() {
    if (changes_.empty()) return {};
    BP_TRY(journal_.on_writer([changes = std::move(changes_)](Database& db) -> Status {
      BP_ASSIGN(Statement s,
                Statement::prepare(db.get(), "UPDATE log SET body = ? WHERE number = ?"));
      for (const auto& [number, body] : changes) {
        s.blob(body).num(int64_t(number));
        BP_TRY(s.run());
      }
      return {};
    }));
    changes_.clear();
    const auto bytes = int64_t(std::exchange(bytes_, 0));
    return pacer_.spend(bytes);
  }

 private:
  SqliteJournal& journal_;
  Pacer& pacer_;
  std::vector<std::pair<uint64_t, std::string>> changes_;
  size_t bytes_ = 0;
};

// Records that may be changed: (first, last); the tail to replay and what is not yet searchable
// stay as they are.
Result<std::pair<uint64_t, uint64_t>> settled(SqliteJournal& journal, JournalReader& reader) {
  BP_ASSIGN(auto range, reader.range());
  if (range.second == 0) return std::pair<uint64_t, uint64_t>(1, 0);
  BP_ASSIGN(std::optional<Record> newest, reader.fetch(range.second));
  uint64_t last = journal.searchable_up_to();
  if (newest && newest->header.replay_from > 0)
    last = std::min(last, newest->header.replay_from - 1);
  return std::pair(range.first, last);
}

// The oldest ended runs, by number.
Result<std::vector<EndedRow>> choose(SqliteJournal& journal, const ArchiveOptions& o) {
  BP_ASSIGN(SearchReader search, SearchReader::open(search_path_of(journal.options()), {}));
  BP_ASSIGN(auto counts, search.counts());
  uint64_t total = 0;
  for (const auto& [state, n] : counts) total += n;
  if (total <= o.keep_newest) return std::vector<EndedRow>();
  const uint64_t most = std::min(total - o.keep_newest, o.runs_max);
  return search.oldest(o.ended_before_wall_ms, most);
}

bool goes(const Item& item, const Runs& runs, int64_t daemon_before_wall_ms) {
  if (item.run_number == 0) return item.wall_ms < daemon_before_wall_ms;
  return runs.count(item.run_number) != 0;
}

Status write_archive(JournalReader& source, std::pair<uint64_t, uint64_t> range, const Runs& runs,
                     const std::vector<EndedRow>& rows, const ArchiveOptions& o, Pacer& pacer) {
  BP_ASSIGN(NewFile file, NewFile::create(o.to));
  BP_TRY(file.begin());
  BP_TRY(source.each_record(range.first, range.second, [&](const Record& r) -> Status {
    size_t erased = 0;
    bool any = false;
    Record part = r;
    BP_ASSIGN(part.body, erase_items(
                             r,
                             [&](const Item& i) {
                               const bool ours = runs.count(i.run_number) != 0;
                               any = any || ours;
                               return !ours;
                             },
                             false, erased));
    if (any) BP_TRY(file.add(part));
    return pacer.spend(int64_t(r.body.size()) / 4);
  }));
  BP_ASSIGN(Statement s, Statement::prepare(file.db().get(), kInsertSummary));
  for (const EndedRow& row : rows) {
    std::string bytes;
    encode_ended(row, bytes);
    s.num(int64_t(row.run_number)).num(int64_t(row.last_commit)).blob(bytes);
    BP_TRY(s.run());
  }
  s = Statement();
  BP_TRY(file.commit());
  BP_ASSIGN(VerifyReport report, verify_file(file.partial(), {}, false));
  if (!report.sound())
    return Error{
        ErrorCode::kJournal,
        "the archive does not verify: " +
            (report.findings.empty() ? report.lines.front() : report.findings.front().to_line()),
        {}};
  return file.finish();
}

Status note_archive(SqliteJournal& journal, const std::string& path, const ArchiveReport& report,
                    bool done) {
  const int64_t now = std::chrono::duration_cast<std::chrono::milliseconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  return journal.on_writer([now, path, report, done](Database& db) -> Status {
    BP_ASSIGN(Statement s,
              Statement::prepare(db.get(),
                                 "INSERT INTO archives(path, wall_ms, first_run, last_run, runs, "
                                 "done) VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET done = "
                                 "excluded.done"));
    s.text(path).num(now).num(int64_t(report.first_run)).num(int64_t(report.last_run));
    s.num(int64_t(report.runs)).num(done);
    return s.run();
  });
}

Status erase_runs(SqliteJournal& journal, const Runs& runs, int64_t daemon_before_wall_ms,
                  ArchiveReport& report, Pacer& pacer) {
  BP_ASSIGN(JournalReader source, JournalReader::open(journal.options().path));
  BP_ASSIGN(auto range, settled(journal, source));
  BodyWriter out(journal, pacer);
  BP_TRY(source.each_record(range.first, range.second, [&](const Record& r) -> Status {
    size_t erased = 0;
    BP_ASSIGN(
        std::string body,
        erase_items(
            r, [&](const Item& i) { return goes(i, runs, daemon_before_wall_ms); }, true, erased));
    report.entries += erased;
    return erased == 0 ? Status() : out.put(r.header.number, std::move(body));
  }));
  BP_TRY(out.flush());
  return journal.forget(std::vector<uint64_t>(runs.begin(), runs.end()));
}

// Archives that were begun and not done: their runs are erased now.
Status finish_begun(SqliteJournal& journal, Pacer& pacer) {
  BP_ASSIGN(JournalReader reader, JournalReader::open(journal.options().path));
  BP_ASSIGN(Statement s,
            Statement::prepare(reader.db().get(), "SELECT path FROM archives WHERE done = 0"));
  std::vector<std::string> paths;
  while (true) {
    BP_ASSIGN(bool there, s.step());
    if (!there) break;
    paths.push_back(s.bytes_at(0));
  }
  for (const std::string& path : paths) {
    BP_ASSIGN(JournalReader file, JournalReader::open(path));
    BP_ASSIGN(Statement runs_of,
              Statement::prepare(file.db().get(), "SELECT run_number FROM summaries"));
    Runs runs;
    while (true) {
      BP_ASSIGN(bool there, runs_of.step());
      if (!there) break;
      runs.insert(uint64_t(runs_of.int_at(0)));
    }
    ArchiveReport report;
    BP_TRY(erase_runs(journal, runs, 0, report, pacer));
    BP_TRY(note_archive(journal, path, report, true));
  }
  return {};
}

}  // namespace

Result<ArchiveReport> archive(SqliteJournal& journal, const ArchiveOptions& o) {
  Pacer pacer(o.pace);
  BP_TRY(finish_begun(journal, pacer));
  ArchiveReport report;
  BP_ASSIGN(JournalReader source, JournalReader::open(journal.options().path));
  BP_ASSIGN(auto range, settled(journal, source));
  BP_ASSIGN(std::vector<EndedRow> chosen, choose(journal, o));
  std::vector<EndedRow> rows;
  Runs runs;
  for (EndedRow& row : chosen) {
    if (row.last_commit > range.second) continue;
    runs.insert(row.run_number);
    rows.push_back(std::move(row));
  }
  if (rows.empty()) return report;
  report.runs = rows.size();
  report.first_run = rows.front().run_number;
  report.last_run = rows.back().run_number;
  if (!o.to.empty()) {
    BP_TRY(write_archive(source, range, runs, rows, o, pacer));
    BP_TRY(note_archive(journal, o.to, report, false));
  }
  BP_TRY(erase_runs(journal, runs, o.ended_before_wall_ms, report, pacer));
  if (!o.to.empty()) BP_TRY(note_archive(journal, o.to, report, true));
  BP_TRY(drop_prefix(journal));
  return report;
}

Result<uint64_t> erase_run(SqliteJournal& journal, uint64_t run_number, uint64_t last_commit,
                           bool summary) {
  BP_ASSIGN(JournalReader source, JournalReader::open(journal.options().path));
  BP_ASSIGN(auto range, settled(journal, source));
  if (last_commit > range.second)
    return Error{ErrorCode::kConflict,
                 "run " + std::to_string(run_number) + " ended too recently (commit " +
                     std::to_string(last_commit) + ", settled up to " +
                     std::to_string(range.second) + ")",
                 "Try again in a few seconds"};
  BP_ASSIGN(std::vector<uint64_t> numbers, commits_of(source, run_number, last_commit));
  Pacer pacer(Pace{});
  BodyWriter out(journal, pacer);
  uint64_t total = 0;
  for (uint64_t number : numbers) {
    BP_ASSIGN(std::optional<Record> record, source.fetch(number));
    if (!record) continue;
    size_t erased = 0;
    BP_ASSIGN(std::string body, erase_items(
                                    *record,
                                    [&](const Item& i) {
                                      return i.run_number == run_number &&
                                             (summary || i.kind == ItemKind::kEntry);
                                    },
                                    false, erased));
    total += erased;
    if (erased != 0) BP_TRY(out.put(number, std::move(body)));
  }
  BP_TRY(out.flush());
  if (summary) BP_TRY(journal.forget({run_number}));
  return total;
}

Result<uint64_t> drop_prefix(SqliteJournal& journal) {
  BP_ASSIGN(JournalReader reader, JournalReader::open(journal.options().path));
  BP_ASSIGN(auto range, settled(journal, reader));
  JournalReader::Anchor anchor;
  Status end = reader.each_record(range.first, range.second, [&](const Record& r) -> Status {
    if (!RecordItems(r).shrunk() && r.header.count != 0)
      return Error{ErrorCode::kCancelled, "the first one with a body", {}};
    anchor = {r.header.number, r.root};
    return {};
  });
  if (!end.ok() && end.error().code != ErrorCode::kCancelled) return std::move(end).error();
  if (anchor.number == 0) return uint64_t{0};
  for (uint64_t at = range.first; at <= anchor.number; at += kDropAtOnce) {
    const uint64_t to = std::min(at + kDropAtOnce - 1, anchor.number);
    BP_TRY(journal.on_writer([to](Database& db) -> Status {
      BP_ASSIGN(Statement s, Statement::prepare(db.get(), "SELECT root FROM log WHERE number = ?"));
      s.num(int64_t(to));
      BP_ASSIGN(bool there, s.step());
      if (!there)
        return Error{ErrorCode::kInternal, "commit " + std::to_string(to) + " is gone", {}};
      BP_TRY(put_fact(db, "anchor_number", std::to_string(to)));
      BP_TRY(put_fact(db, "anchor_root", s.bytes_at(0)));
      s = Statement();
      return db.exec("DELETE FROM log WHERE number <= " + std::to_string(to) +
                     "; DELETE FROM seals WHERE number <= " + std::to_string(to));
    }));
  }
  return anchor.number + 1 - range.first;
}

struct Archive::Parts {
  JournalReader reader;
};
Archive::Archive() = default;
Archive::Archive(Archive&&) noexcept = default;
Archive::~Archive() = default;

Result<Archive> Archive::open(const std::string& path) {
  Archive a;
  BP_ASSIGN(JournalReader reader, JournalReader::open(path));
  a.parts_.reset(new Parts{std::move(reader)});
  return a;
}

Result<std::vector<EndedRow>> Archive::ended(const EndedQuery& query) {
  BP_ASSIGN(Statement s, Statement::prepare(parts_->reader.db().get(),
                                            "SELECT row FROM summaries ORDER BY run_number DESC"));
  std::vector<EndedRow> rows;
  while (rows.size() < query.limit) {
    BP_ASSIGN(bool there, s.step());
    if (!there) break;
    BP_ASSIGN(EndedRow row, decode_ended(s.bytes_at(0)));
    if (matches(row, query)) rows.push_back(std::move(row));
  }
  return rows;
}

Result<std::optional<EndedRow>> Archive::ended_by_number(uint64_t run_number) {
  BP_ASSIGN(Statement s, Statement::prepare(parts_->reader.db().get(),
                                            "SELECT row FROM summaries WHERE run_number = ?"));
  s.num(int64_t(run_number));
  BP_ASSIGN(bool there, s.step());
  if (!there) return std::optional<EndedRow>();
  BP_ASSIGN(EndedRow row, decode_ended(s.bytes_at(0)));
  return std::optional<EndedRow>(std::move(row));
}

Result<std::vector<Entry>> Archive::history(uint64_t run_number) {
  BP_ASSIGN(std::optional<EndedRow> row, ended_by_number(run_number));
  if (!row)
    return Error{ErrorCode::kNotFound, "run " + std::to_string(run_number) + " is not in it", {}};
  return parts_->reader.history(run_number, row->last_commit, 0);
}

}  // namespace bp::storage
