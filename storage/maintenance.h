// What operators do with a journal while it is written, and without a daemon: back up, restore,
// verify, export, import, archive, erase, drop. Everything reads through connections of its own,
// in pieces, and writes to the journal only through its writer, a little at a time.
// Errors: kJournal (what, where, found, expected), kDiskFull, kAlreadyExists, kNotFound,
// kCancelled. A file that is made appears under its name only whole, synced and checked.
// Thread: any but the journal's own; one of these on a journal at a time (archive, erase, drop).
#pragma once
#include "storage/chain_check.h"
#include "storage/sqlite_journal.h"

namespace bp::storage {

struct Pace {
  int64_t bytes_per_s = 64 << 20;   // 0: as fast as it goes
  std::function<bool()> cancelled;  // may be empty
};

struct VerifyReport {
  uint64_t first_commit = 0, last_commit = 0;
  uint64_t commits = 0, entries = 0;
  std::string root;                // of the last commit
  std::vector<Finding> findings;   // empty: sound
  std::vector<std::string> lines;  // rows that break an invariant, damage of the file
  bool sound() const { return findings.empty() && lines.empty(); }
};
/// The whole chain of a file, and with a key its seals. The daemon may run.
Result<VerifyReport> verify(const std::string& journal_path, const std::string& public_key = {});

/// A consistent copy as of a commit during the call: a journal file of its own. Verified.
Result<VerifyReport> backup(const std::string& journal_path, const std::string& to,
                            const Pace& pace = {});

struct RestoreOptions {
  bool replace = false;            // an existing journal is moved to PATH.replaced-MS
  uint64_t least_incarnation = 0;  // above what nodes report
};
/// No daemon may run on `journal_path`. Verifies `from` first. Returns the new incarnation: greater
/// than that of the backup and of the journal replaced.
Result<uint64_t> restore(const std::string& from, const std::string& journal_path,
                         const RestoreOptions& options = {});

/// Portable file, see export.cc for its format. `run_number` 0: everything.
Status export_journal(const std::string& journal_path, const std::string& to,
                      uint64_t run_number = 0, uint64_t last_commit_of_run = 0,
                      const Pace& pace = {});
/// Makes a journal file (or, of one run, a file for Archive) of an export. kAlreadyExists.
Result<VerifyReport> import_journal(const std::string& from, const std::string& to);

/// Erases the bodies of one ended run's entries, and its summary with `summary` (it then leaves the
/// search). The chain still verifies. Returns how many.
Result<uint64_t> erase_run(SqliteJournal& journal, uint64_t run_number, uint64_t last_commit,
                           bool summary);

struct ArchiveOptions {
  std::string to;                    // a new file; empty: erased without an archive
  int64_t ended_before_wall_ms = 0;  // 0: of any age
  uint64_t keep_newest = 0;          // this many ended runs stay
  uint64_t runs_max = 200'000;       // of one call
  Pace pace;
};
struct ArchiveReport {
  uint64_t runs = 0, entries = 0;
  uint64_t first_run = 0, last_run = 0;
};
/// Moves ended runs, the oldest first, into a file, erases them from the journal and its search,
/// then drops what the log no longer needs (drop_prefix). A call that was cut off is finished by
/// the next one.
Result<ArchiveReport> archive(SqliteJournal& journal, const ArchiveOptions& options);
/// Deletes the leading records that were shrunk to digests and are not part of the tail to replay;
/// the root of the last one stays as the anchor of the chain. Returns how many.
Result<uint64_t> drop_prefix(SqliteJournal& journal);

/// A file made by archive() or by importing one run, for reading.
class Archive {
 public:
  static Result<Archive> open(const std::string& path);
  Archive(Archive&&) noexcept;
  ~Archive();
  Result<std::vector<EndedRow>> ended(const EndedQuery& query);
  Result<std::optional<EndedRow>> ended_by_number(uint64_t run_number);
  Result<std::vector<Entry>> history(uint64_t run_number);

 private:
  Archive();
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace bp::storage
