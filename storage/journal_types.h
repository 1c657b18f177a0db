// What goes into the journal and comes out of it: plain data.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

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
  uint64_t run_number = 0;       // 0: of the daemon itself
  uint64_t run_seq = 0;          // dense per run, from 1
  uint64_t previous_commit = 0;  // of the run's entry before this one; 0: it is the first
  int64_t wall_ms = 0;
  uint32_t type = 0;      // number of the oneof member of bp.v1.Event
  Next next;              // after this event
  std::string body;       // serialized bp.v1.Event
  std::string body_hash;  // set by reads when the body was erased, else empty
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
  std::string why;   // one sentence, not empty: why that actor
  std::string body;  // core's encoding of the whole run
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
  std::string error_code;       // empty: none
  std::string idempotency_key;  // empty: none
  std::map<std::string, std::string> labels;
  uint64_t last_commit = 0;  // its last entry; the others hang on previous_commit
};

/// What one transaction writes.
struct Commit {
  uint64_t number = 0;       // dense, from 1, given by the caller
  uint64_t replay_from = 0;  // commits before it are contained in the live rows
  int64_t wall_ms = 0;
  std::vector<Entry> entries;
  std::vector<LiveRow> put_live;
  std::vector<uint64_t> drop_live;  // run numbers
  std::vector<EndedRow> ended;
  std::vector<uint64_t> revived;  // ended runs that live again: no longer in the search
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
  uint64_t replay_from = 0;  // read_log(replay_from) gives the tail
  uint64_t last_run_number = 0;
  uint64_t incarnation = 1;  // grows with every restore or copy
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
  std::vector<int> states;  // empty: any
  std::map<std::string, std::string> labels;
  int64_t created_from_wall_ms = 0, created_to_wall_ms = 0;  // 0: open
  int64_t ended_from_wall_ms = 0, ended_to_wall_ms = 0;
  uint64_t before_run_number = 0;  // page on: smaller numbers only; 0: from the newest
  uint32_t limit = 100;
};

/// A run's idempotency key names it for so long after its end.
inline constexpr int64_t kKeyKeptMs = 24 * 3'600'000;
/// Whether every field that is set matches (before_run_number included).
bool matches(const EndedRow& row, const EndedQuery& query);

struct CheckOptions {
  bool integrity = true;           // the database's own check of its files
  bool chain = true;               // roots over all entries, dense numbers, previous_commit
  std::string signing_public_key;  // not empty: signatures of roots must verify under it
};

}  // namespace bp::storage
