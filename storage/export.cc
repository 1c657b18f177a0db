// Export and import of journals; the format is in export.h.
#include "storage/export.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "storage/journal_file.h"
#include "storage/journal_reader.h"
#include "storage/journal_schema.h"
#include "storage/new_file.h"

namespace bp::storage {
namespace {

Status export_tables(JournalReader& source, ExportWriter& out, Pacer& pacer) {
  std::vector<std::string> tables(std::begin(kSideTables), std::end(kSideTables));
  tables.emplace_back("seals");
  for (const std::string& table : tables) {
    BP_ASSIGN(Statement s, Statement::prepare(source.db().get(), "SELECT * FROM " + table));
    while (true) {
      BP_ASSIGN(bool there, s.step());
      if (!there) break;
      BP_TRY(out.row(table, s));
      BP_TRY(pacer.spend(256));
    }
  }
  return {};
}

// In one read transaction: what a slow reader holds back only makes the write-ahead log longer.
Status export_all(JournalReader& source, ExportWriter& out, Pacer& pacer) {
  BP_TRY(source.db().exec("BEGIN"));
  BP_ASSIGN(auto range, source.range());
  BP_TRY(source.each_record(range.first, range.second, [&](const Record& r) -> Status {
    BP_TRY(out.record(r));
    return pacer.spend(int64_t(r.body.size()));
  }));
  BP_TRY(export_tables(source, out, pacer));
  return source.db().exec("COMMIT");
}

Status export_run(JournalReader& source, ExportWriter& out, uint64_t run, uint64_t last_commit) {
  BP_ASSIGN(std::vector<uint64_t> numbers, commits_of(source, run, last_commit));
  for (uint64_t number : numbers) {
    BP_ASSIGN(std::optional<Record> record, source.fetch(number));
    if (!record) continue;
    size_t erased = 0;
    BP_ASSIGN(record->body,
              erase_items(
                  *record, [&](const Item& i) { return i.run_number != run; }, false, erased));
    BP_TRY(out.record(*record));
  }
  return {};
}

// The summary of each ended run of a file that holds parts of records.
Status index_summaries(NewFile& file, const std::vector<std::pair<EndedRow, uint64_t>>& rows) {
  BP_ASSIGN(Statement s, Statement::prepare(file.db().get(), kInsertSummary));
  for (const auto& [row, last_commit] : rows) {
    std::string bytes;
    encode_ended(row, bytes);
    s.num(int64_t(row.run_number)).num(int64_t(last_commit)).blob(bytes);
    BP_TRY(s.run());
  }
  return {};
}

class Import {
 public:
  explicit Import(NewFile& file) : file_(file) {}
  Status run(const std::string& from);
  bool one_run() const { return one_run_; }

 private:
  Status record(const Record& r);
  Status row(std::string_view table, const std::vector<ExportColumn>& columns);
  NewFile& file_;
  bool one_run_ = false;
  std::map<std::string, Statement, std::less<>> inserts_;
  std::vector<std::pair<EndedRow, uint64_t>> ended_;
};

Status Import::record(const Record& r) {
  if (one_run_) {
    RecordItems items(r);
    Item item;
    while (true) {
      BP_ASSIGN(bool more, items.next(item));
      if (!more) break;
      if (item.kind != ItemKind::kEnded || item.erased) continue;
      BP_ASSIGN(EndedRow row, decode_ended(item.body));
      ended_.emplace_back(std::move(row), r.header.number);
    }
  }
  return file_.add(r);
}

Status Import::row(std::string_view table, const std::vector<ExportColumn>& columns) {
  const bool known = table == "seals" || std::find(std::begin(kSideTables), std::end(kSideTables),
                                                   table) != std::end(kSideTables);
  if (!known)
    return Error{
        ErrorCode::kJournal,
        "export: found a row of table \"" + std::string(table) + "\", expected one of a journal",
        {}};
  auto insert = inserts_.find(table);
  if (insert == inserts_.end()) {
    std::string marks = "?";
    for (size_t i = 1; i < columns.size(); ++i) marks += ", ?";
    BP_ASSIGN(Statement s,
              Statement::prepare(file_.db().get(),
                                 "INSERT INTO " + std::string(table) + " VALUES(" + marks + ")"));
    insert = inserts_.emplace(table, std::move(s)).first;
  }
  Statement& s = insert->second;
  for (const ExportColumn& c : columns) {
    switch (c.kind) {
      case ExportColumn::kNull:
        s.null();
        break;
      case ExportColumn::kInteger:
        s.num(c.integer);
        break;
      case ExportColumn::kText:
        s.text(c.bytes);
        break;
      case ExportColumn::kBytes:
        s.blob(c.bytes);
    }
  }
  return s.run();
}

Status Import::run(const std::string& from) {
  struct Close {
    void operator()(FILE* f) const { std::fclose(f); }
  };
  std::unique_ptr<FILE, Close> in(std::fopen(from.c_str(), "rbe"));
  if (!in) return errno_error("open " + from, errno);
  const ReadBytes read = [&](char* to, size_t n) -> Result<size_t> {
    const size_t got = std::fread(to, 1, n, in.get());
    if (got < n && std::ferror(in.get())) return errno_error("read " + from, errno);
    return got;
  };
  ExportVisitor visit;
  visit.begin = [this](bool one_run) -> Status {
    one_run_ = one_run;
    return {};
  };
  visit.record = [this](const Record& r) { return record(r); };
  visit.row = [this](std::string_view table, const std::vector<ExportColumn>& columns) {
    return row(table, columns);
  };
  BP_TRY(read_export(read, visit));
  inserts_.clear();
  return index_summaries(file_, ended_);
}

}  // namespace

Result<std::vector<uint64_t>> commits_of(JournalReader& source, uint64_t run,
                                         uint64_t last_commit) {
  std::vector<uint64_t> numbers;
  for (uint64_t number = last_commit; number != 0;) {
    BP_ASSIGN(std::optional<Record> record, source.fetch(number));
    uint64_t before = number;
    if (record) {
      RecordItems items(*record);
      Item item;
      while (true) {
        BP_ASSIGN(bool more, items.next(item));
        if (!more) break;
        const bool first = item.kind == ItemKind::kEntry && item.run_number == run;
        if (first && before == number) before = item.previous_commit;
      }
    }
    if (before == number)
      return Error{
          ErrorCode::kNotFound,
          "run " + std::to_string(run) + " has no entry in commit " + std::to_string(number),
          {}};
    numbers.push_back(number);
    number = before;
  }
  std::reverse(numbers.begin(), numbers.end());
  return numbers;
}

Status export_journal(const std::string& journal_path, const std::string& to, uint64_t run_number,
                      uint64_t last_commit_of_run, const Pace& pace) {
  if (::access(to.c_str(), F_OK) == 0)
    return Error{ErrorCode::kAlreadyExists, to + " exists already", "Choose another name"};
  const std::string partial = to + ".partial";
  ::unlink(partial.c_str());
  BP_ASSIGN(JournalReader source, JournalReader::open(journal_path));
  Pacer pacer(pace);
  BP_ASSIGN(ExportWriter out, ExportWriter::create(partial, run_number != 0));
  Status done = run_number == 0 ? export_all(source, out, pacer)
                                : export_run(source, out, run_number, last_commit_of_run);
  if (done.ok()) done = out.end();
  if (done.ok() && ::rename(partial.c_str(), to.c_str()) != 0)
    done = errno_error("rename " + partial, errno);
  if (done.ok()) return sync_folder_of(to);
  ::unlink(partial.c_str());
  return done;
}

Result<VerifyReport> import_journal(const std::string& from, const std::string& to) {
  BP_ASSIGN(NewFile file, NewFile::create(to));
  Import import(file);
  BP_TRY(file.begin());
  BP_TRY(import.run(from));
  BP_TRY(file.commit());
  BP_ASSIGN(VerifyReport report, verify_file(file.partial(), {}, !import.one_run()));
  if (!report.sound())
    return Error{
        ErrorCode::kJournal,
        from + " does not verify: " +
            (report.findings.empty() ? report.lines.front() : report.findings.front().to_line()),
        {}};
  BP_TRY(file.finish());
  return report;
}

}  // namespace bp::storage
