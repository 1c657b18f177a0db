// Journal: where everything durable lives. No word of SQLite here: a second implementation over
// another database must be possible (several daemons, one leader by lease and epoch).
//
// It is a log of commits, with rows of live runs as snapshots beside it:
//
//   log        one record per commit: all its entries (events), chained by a root over all before.
//              The only thing that a commit must write. Never changed, only erased or archived.
//   live       a snapshot of each run that is not ended and not younger than a moment: rows lag
//              behind the log by a bounded tail, which recovery replays through the pure core.
//   ended      a summary of each ended run, for list and search. Part of the log's records too: an
//              implementation may keep the index elsewhere, write it later, and build it anew.
//   beside     secrets (sealed), meta, definitions and payloads by content hash.
//
// The only write is commit(Commit): atomic, in order, durable when its callback runs with OK, never
// retried after an I/O error (the daemon stops instead). Reads see everything committed before they
// started, except ended(): the caller keeps what is not yet searchable (searchable_up_to()).
// Thread: commit, and all reads, from the thread that opened it; `done` on a thread of the journal
// (tests: inline).
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"

namespace bp::storage {

/// Who must act next on a run: kept with every entry and every live row, so that a run that nobody
/// has to act on cannot be stored unless it has ended. Values are stored: append only.
enum class Actor : uint8_t {
  kNobody = 1,        // ended, and only then
  kDaemon = 2,        // to dispatch
  kStageHost = 3,     // an attempt runs
  kTimer = 4,         // backoff, sleep, delayed start
  kSignal = 5,        // a stage waits for a signal
  kPerson = 6,        // needs human, paused, quarantined
  kApplications = 7,  // serving
};
struct Next {
  Actor actor = Actor::kNobody;
  /// Boot time in ms by which it must have happened (a timer then fires); 0: no limit, allowed for
  /// kNobody, kPerson, kApplications, and kSignal without a timeout.
  int64_t by_boot_ms = 0;
};

/// One event of the log.
struct Entry {
  uint64_t run_number = 0;  // 0: of the daemon itself
  uint64_t run_seq = 0;     // dense per run, from 1
  uint64_t previous_commit = 0;  // of the run's entry before this one; 0: it is the first
  int64_t wall_ms = 0;
  uint32_t type = 0;        // number of the oneof member of bp.v1.Event
  Next next;                // after this event
  std::string body;         // serialized bp.v1.Event
  std::string body_hash;    // set by reads when the body was erased, else empty
};

/// Snapshot of a live run.
struct LiveRow {
  uint64_t run_number = 0;
  std::string run_id;
  std::string name;
  int state = 0;             // bp.v1.RunState
  uint64_t run_seq = 0;      // of the last event that the body contains
  uint64_t last_commit = 0;  // where that event is
  Next next;
  std::string why;           // one sentence, not empty: why that actor
  std::string body;          // core's encoding of the whole run
};

/// Summary of an ended run.
struct EndedRow {
  uint64_t run_number = 0;
  std::string run_id;
  std::string name;
  std::string workflow;
  int state = 0;
  int64_t created_wall_ms = 0;
  int64_t ended_wall_ms = 0;
  std::string error_code;           // empty: none
  std::string idempotency_key;      // empty: none
  std::map<std::string, std::string> labels;
  uint64_t last_commit = 0;         // its last entry; the others hang on previous_commit
};

/// What one transaction writes.
struct Commit {
  uint64_t number = 0;     // dense, from 1, given by the caller
  uint64_t replay_from = 0;  // commits before this one are contained in the live rows
  int64_t wall_ms = 0;
  std::vector<Entry> entries;
  std::vector<LiveRow> put_live;
  std::vector<uint64_t> drop_live;  // run numbers
  std::vector<EndedRow> ended;
  std::vector<uint64_t> revived;    // ended runs that live again: no longer in the search
  struct SecretRow {
    uint64_t run_number = 0;
    std::string name, sealed;  // encrypted by the caller
  };
  std::vector<SecretRow> put_secrets;
  std::vector<uint64_t> drop_secrets_of_runs;
  std::map<std::string, std::string> put_meta;
  std::vector<std::string> drop_meta;
  /// By content hash (hex); kept until no live run, definition or history refers to them.
  std::map<std::string, std::string> put_blobs;
  std::vector<std::string> drop_blobs;
  bool empty() const;
};

/// All that a start needs: live rows, and the commits to replay over them.
struct Recovered {
  std::vector<LiveRow> live;
  uint64_t last_commit = 0;
  uint64_t replay_from = 0;        // read_log(replay_from) gives the tail
  uint64_t last_run_number = 0;
  uint64_t incarnation = 1;        // grows with every restore or copy
  std::map<std::string, std::string> meta;
};

struct LogRecord {
  uint64_t number = 0;
  int64_t wall_ms = 0;
  std::vector<Entry> entries;
};

/// Filter of ended(); every field that is set must match. Labels: equality.
struct EndedQuery {
  std::string name, workflow, error_code;
  std::vector<int> states;                       // empty: any
  std::map<std::string, std::string> labels;
  int64_t created_from_wall_ms = 0, created_to_wall_ms = 0;  // 0: open
  int64_t ended_from_wall_ms = 0, ended_to_wall_ms = 0;
  uint64_t before_run_number = 0;                // page on: smaller numbers only; 0: from the newest
  uint32_t limit = 100;
};

/// How long after its end a run's idempotency key still names it.
inline constexpr int64_t kKeyKeptMs = 24 * 3'600'000;
/// Whether every field that is set matches (before_run_number included).
bool matches(const EndedRow& row, const EndedQuery& query);

struct CheckOptions {
  bool integrity = true;   // the database's own check of its files
  bool chain = true;       // roots over all entries, dense numbers, previous_commit
  std::string signing_public_key;  // not empty: signatures of roots must verify under it
};

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

  virtual Result<std::map<std::string, std::string>> secrets_of(uint64_t run_number) = 0;
  virtual Result<std::optional<std::string>> blob(const std::string& hash) = 0;

  /// One line per violation, empty when sound. May take long; reads only.
  virtual Result<std::vector<std::string>> check(const CheckOptions& options) = 0;
};

}  // namespace bp::storage
