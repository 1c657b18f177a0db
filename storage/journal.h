// Journal: where everything durable lives. No word of SQLite here: a second implementation over
// another database must be possible (several daemons, one leader by lease and epoch).
//
// It is a log of commits, with rows of live runs as snapshots beside it:
//   log        one record per commit: all its entries (events), chained by a root over all before.
//              The only thing that a commit must write. Never changed, only erased or archived.
//   live       a snapshot of each run that is not ended and not younger than a moment: rows lag
//              behind the log by a bounded tail, which recovery replays through the pure core.
//   ended      a summary of each ended run, for list and search. Part of the log's records too: an
//              implementation may keep the index elsewhere, write it later, and build it anew.
//   beside     secrets (sealed), meta, definitions and payloads by content hash.
// The only write is commit(Commit): atomic, in order, durable when its callback runs with OK, never
// retried after an I/O error (the daemon stops instead). Reads see everything committed before they
// started, except ended(): the caller keeps what is not yet searchable (searchable_up_to()).
// Thread: commit, and all reads, from the thread that opened it; `done` on a thread of the journal
// (tests: inline).
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "storage/journal_types.h"

namespace bp::storage {

class Journal {
 public:
  virtual ~Journal() = default;

  /// Asynchronous and ordered; may be called again before `done` (commits are pipelined). An error
  /// means the journal is unusable: kJournal, kDiskFull.
  virtual void commit(Commit c, std::function<void(Status)> done) = 0;

  virtual Result<Recovered> recover() = 0;
  /// Calls `each` for the commits `from`..`to` in order; stops at the first error that `each`
  /// gives.
  virtual Status read_log(uint64_t from, uint64_t to,
                          const std::function<Status(const LogRecord&)>& each) = 0;
  /// Entries of one run, oldest first, found backwards from `last_commit`; at most those with
  /// run_seq > after. kNotFound: they were archived; the message says where to.
  virtual Result<std::vector<Entry>> history(uint64_t run_number, uint64_t last_commit,
                                             uint64_t after_run_seq = 0) = 0;

  // Ended runs, as of this commit number. kUnavailable from ended_by_key(): the index is being built
  // anew and does not yet know all keys of the last day.
  virtual uint64_t searchable_up_to() = 0;
  /// Newest first: by falling run number.
  virtual Result<std::vector<EndedRow>> ended(const EndedQuery& query) = 0;
  virtual Result<std::optional<EndedRow>> ended_by_number(uint64_t run_number) = 0;
  /// Of the runs that ended within kKeyKeptMs before the newest commit; the latest one.
  virtual Result<std::optional<EndedRow>> ended_by_key(const std::string& idempotency_key) = 0;
  virtual Result<std::map<int, uint64_t>> ended_counts() = 0;  // by state

  /// Run ids of journals from before ids carried the run number.
  virtual Result<std::optional<uint64_t>> number_of_old_id(const std::string& run_id) = 0;
  virtual Result<std::map<std::string, std::string>> secrets_of(uint64_t run_number) = 0;
  virtual Result<std::optional<std::string>> blob(const std::string& hash) = 0;

  /// One line per violation, empty when sound. May take long; reads only.
  virtual Result<std::vector<std::string>> check(const CheckOptions& options) = 0;
};

}  // namespace bp::storage
