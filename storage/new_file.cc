#include "storage/new_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "storage/journal_file.h"
#include "storage/journal_reader.h"
#include "storage/journal_schema.h"

namespace bp::storage {

const char* const kSideTables[8] = {"live",     "secrets", "meta",      "blobs",
                                    "archives", "old_ids", "summaries", "facts"};

Result<NewFile> NewFile::create(const std::string& path) {
  if (::access(path.c_str(), F_OK) == 0)
    return Error{ErrorCode::kAlreadyExists, path + " exists already", "Choose another name"};
  NewFile f;
  f.path_ = path;
  ::unlink(f.partial().c_str());
  {
    Fd fd(::open(f.partial().c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) return errno_error("create " + f.partial(), errno);
  }
  BP_ASSIGN(f.db_, Database::open(f.partial(), SQLITE_OPEN_READWRITE));
  for (const char* pragma : {"page_size = 16384", "journal_mode = MEMORY", "synchronous = OFF"})
    BP_TRY(f.db_.exec(std::string("PRAGMA ") + pragma));
  BP_TRY(f.begin());
  BP_TRY(create_schema(f.db_));
  BP_TRY(f.commit());
  BP_ASSIGN(f.insert_, Statement::prepare(f.db_.get(), kInsertRecord));
  return f;
}

NewFile::~NewFile() {
  if (path_.empty()) return;
  insert_ = Statement();
  db_ = Database();
  ::unlink(partial().c_str());
}

Status NewFile::add(const Record& record) { return put_record(insert_, record); }

Result<int64_t> NewFile::copy_table(Database& source, const std::string& table) {
  BP_ASSIGN(Statement from, Statement::prepare(source.get(), "SELECT * FROM " + table));
  const int columns = sqlite3_column_count(from.get());
  std::string marks = "?";
  for (int i = 1; i < columns; ++i) marks += ", ?";
  BP_ASSIGN(Statement to,
            Statement::prepare(db_.get(), "INSERT INTO " + table + " VALUES(" + marks + ")"));
  int64_t bytes = 0;
  while (true) {
    BP_ASSIGN(bool there, from.step());
    if (!there) return bytes;
    for (int i = 0; i < columns; ++i) {
      sqlite3_bind_value(to.get(), i + 1, sqlite3_column_value(from.get(), i));
      bytes += sqlite3_column_bytes(from.get(), i);
    }
    BP_TRY(to.run());
  }
}

Status NewFile::finish() {
  insert_ = Statement();
  db_ = Database();
  {
    Fd fd(::open(partial().c_str(), O_RDWR | O_CLOEXEC));
    if (!fd || ::fsync(fd.get()) != 0) return errno_error("fsync " + partial(), errno);
  }
  if (::rename(partial().c_str(), path_.c_str()) != 0)
    return errno_error("rename " + partial(), errno);
  const std::string path = std::exchange(path_, std::string());
  return sync_folder_of(path);
}

Pacer::Pacer(Pace pace) : pace_(std::move(pace)), begin_ns_(monotonic_ns()) {}

Status Pacer::spend(int64_t bytes) {
  spent_ += bytes;
  while (true) {
    if (pace_.cancelled && pace_.cancelled())
      return Error{ErrorCode::kCancelled, "cancelled on request", {}};
    if (pace_.bytes_per_s <= 0) return {};
    const int64_t due_ns = begin_ns_ + int64_t(double(spent_) / double(pace_.bytes_per_s) * 1e9);
    const int64_t left_ms = (due_ns - monotonic_ns()) / 1'000'000;
    if (left_ms <= 0) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min<int64_t>(left_ms, 50)));
  }
}

Result<VerifyReport> verify_file(const std::string& path, const std::string& public_key,
                                 bool chain) {
  BP_ASSIGN(JournalReader reader, JournalReader::open(path));
  VerifyReport report;
  BP_ASSIGN(auto range, reader.range());
  report.first_commit = range.first;
  report.last_commit = range.second;
  BP_TRY(reader.check_rows(true, report.lines));
  BP_ASSIGN(JournalReader::Anchor anchor, reader.anchor());
  ChainCheck check(anchor.number, anchor.root);
  if (chain) {
    BP_TRY(reader.check_chain(public_key, check, report.findings));
  } else {
    BP_TRY(reader.each_record(range.first, range.second, [&](const Record& r) -> Status {
      check.part(r);
      return {};
    }));
  }
  report.findings.insert(report.findings.begin(), check.findings().begin(), check.findings().end());
  report.commits = check.commits();
  report.entries = check.entries();
  report.root = check.root();
  return report;
}

Result<VerifyReport> verify(const std::string& journal_path, const std::string& public_key) {
  return verify_file(journal_path, public_key, true);
}

}  // namespace bp::storage
