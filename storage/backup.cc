// Backup copies the log, which only grows, in pieces while the daemon goes on; the last piece and
// all other tables come from one read transaction. So the write-ahead log is held back only for
// the end, and a throttled backup of a large journal costs the daemon nothing.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "engine/base/fd.h"
#include "storage/journal_file.h"
#include "storage/journal_reader.h"
#include "storage/journal_schema.h"
#include "storage/new_file.h"

namespace bp::storage {
namespace {

constexpr uint64_t kLastPiece = 128;  // commits that the final transaction may have to copy
constexpr int kRoundsMax = 1000;      // towards it, however fast the daemon writes

// Copies from `from` on; returns the number after the last one.
Result<uint64_t> copy_records(JournalReader& source, NewFile& file, uint64_t from, uint64_t to,
                              Pacer* pacer) {
  uint64_t next = from;
  BP_TRY(file.begin());
  Status done = source.each_record(from, to, [&](const Record& r) -> Status {
    BP_TRY(file.add(r));
    next = r.header.number + 1;
    return pacer ? pacer->spend(int64_t(r.body.size())) : Status();
  });
  if (!done.ok()) return std::move(done).error();
  BP_TRY(file.commit());
  return next;
}

Status copy_rest(JournalReader& source, NewFile& file, uint64_t from) {
  BP_TRY(source.db().exec("BEGIN"));
  BP_ASSIGN(auto range, source.range());
  BP_TRY(copy_records(source, file, from, range.second, nullptr));
  BP_TRY(file.begin());
  for (const char* table : kSideTables) BP_TRY(file.copy_table(source.db(), table));
  BP_TRY(file.copy_table(source.db(), "seals"));
  // What was dropped while we copied has its place in the anchor now.
  BP_TRY(file.db().exec("DELETE FROM log WHERE number < " + std::to_string(range.first)));
  BP_TRY(file.commit());
  return source.db().exec("COMMIT");
}

}  // namespace

Result<VerifyReport> backup(const std::string& journal_path, const std::string& to,
                            const Pace& pace) {
  BP_ASSIGN(JournalReader source, JournalReader::open(journal_path));
  BP_ASSIGN(NewFile file, NewFile::create(to));
  Pacer pacer(pace);
  BP_ASSIGN(auto range, source.range());
  uint64_t next = range.first;
  for (int round = 0; round < kRoundsMax && range.second >= next + kLastPiece; ++round) {
    BP_ASSIGN(next, copy_records(source, file, next, range.second, &pacer));
    BP_ASSIGN(range, source.range());
  }
  BP_TRY(copy_rest(source, file, next));
  BP_ASSIGN(VerifyReport report, verify_file(file.partial(), {}, true));
  if (!report.sound()) {
    return Error{
        ErrorCode::kJournal,
        "the backup does not verify: " +
            (report.findings.empty() ? report.lines.front() : report.findings.front().to_line()),
        "The journal itself may be damaged: bp journal verify"};
  }
  BP_TRY(file.finish());
  return report;
}

namespace {

Result<uint64_t> incarnation_of(const std::string& path) {
  BP_ASSIGN(JournalReader reader, JournalReader::open(path));
  BP_ASSIGN(std::string text, fact(reader.db(), "incarnation"));
  if (text.empty()) return uint64_t{0};
  return read_number(text, "its incarnation");
}

// With its write-ahead log, so that nothing of it is lost.
Status move_aside(const std::string& path) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count();
  const std::string aside = path + ".replaced-" + std::to_string(ms);
  for (const char* suffix : {"", "-wal"}) {
    if (::rename((path + suffix).c_str(), (aside + suffix).c_str()) != 0 && errno != ENOENT)
      return errno_error("move " + path + suffix + " aside", errno);
  }
  ::unlink((path + "-shm").c_str());
  return sync_folder_of(path);
}

}  // namespace

Result<uint64_t> restore(const std::string& from, const std::string& journal_path,
                         const RestoreOptions& options) {
  BP_ASSIGN(VerifyReport report, verify(from));
  if (!report.sound())
    return Error{
        ErrorCode::kJournal,
        from + " does not verify: " +
            (report.findings.empty() ? report.lines.front() : report.findings.front().to_line()),
        "Take an older backup"};
  BP_ASSIGN(uint64_t incarnation, incarnation_of(from));
  const bool exists = ::access(journal_path.c_str(), F_OK) == 0;
  if (exists && !options.replace)
    return Error{ErrorCode::kAlreadyExists, journal_path + " exists already",
                 "Restore with --replace: it is moved aside"};
  if (exists) {  // one that cannot be read counts for nothing
    Result<uint64_t> replaced = incarnation_of(journal_path);
    if (replaced) incarnation = std::max(incarnation, *replaced);
  }
  incarnation = std::max(incarnation + 1, options.least_incarnation);
  const std::string made = journal_path + ".restored";
  ::unlink(made.c_str());
  {
    BP_ASSIGN(JournalReader source, JournalReader::open(from));
    BP_ASSIGN(NewFile file, NewFile::create(made));
    BP_ASSIGN(auto range, source.range());
    BP_TRY(copy_rest(source, file, range.first));
    struct stat st {};
    if (::stat(file.partial().c_str(), &st) != 0) return errno_error("stat " + made, errno);
    BP_TRY(put_fact(file.db(), "incarnation", std::to_string(incarnation)));
    BP_TRY(put_fact(file.db(), "file_identity",
                    std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino)));
    BP_TRY(file.finish());
  }
  if (exists) BP_TRY(move_aside(journal_path));
  for (const char* suffix : {"-wal", "-shm"}) ::unlink((journal_path + suffix).c_str());
  if (::rename(made.c_str(), journal_path.c_str()) != 0)
    return errno_error("rename " + made, errno);
  BP_TRY(sync_folder_of(journal_path));
  return incarnation;
}

}  // namespace bp::storage
