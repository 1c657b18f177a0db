// Store: where the journal lives. No word of SQLite here: a second implementation over another
// database must be possible (several daemons, one leader by lease and epoch).
// The only write is commit(Batch): atomic, durable when its callback runs with OK, never retried
// after an I/O error (the daemon stops instead). Reads see everything committed before they
// started.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace bp::storage {

/// One row of a table of the journal, by its key. Values are opaque bytes (protobuf) to the store;
/// the columns named here are what it indexes and checks.
struct RunRow {
  std::string run_id;
  uint64_t run_number = 0;  // unique
  std::string name;         // unique among rows with live = true
  bool live = true;         // not ended
  int state = 0;            // bp.v1.RunState
  uint64_t epoch_counter = 0;
  int64_t created_wall_ms = 0;
  int64_t updated_wall_ms = 0;
  std::string idempotency_key;  // unique when not empty
  std::string body;             // core's own encoding of what else a run is
};
struct StageRow {
  std::string run_id;
  std::string stage;
  uint32_t map_index = 0;
  int state = 0;  // bp.v1.StageState
  std::string body;
};
struct TimerRow {
  std::string run_id;
  std::string stage;
  uint32_t map_index = 0;
  int kind = 0;  // bp.v1.TimerKind
  uint64_t epoch_counter = 0;
  int64_t due_boot_ms =
      0;  // on `boot`; a store opened under another boot re-arms from remaining_ms
  int64_t remaining_ms = 0;  // at the time it was written
  std::string boot_id;
};
struct EventRow {
  uint64_t seq = 0;      // global, dense, assigned by the conductor
  std::string run_id;    // empty: of the daemon itself
  uint64_t run_seq = 0;  // dense per run, from 1
  int64_t wall_ms = 0;
  std::string type;  // name of the oneof member of bp.v1.Event
  std::string body;  // serialized bp.v1.Event
};

struct Batch {
  std::vector<EventRow> events;
  std::vector<RunRow> put_runs;
  std::vector<StageRow> put_stages;
  std::vector<TimerRow> put_timers;   // replaces the timer of the same (run, stage, map, kind)
  std::vector<TimerRow> drop_timers;  // by (run, stage, map, kind)
  struct SecretRow {
    std::string run_id, name, sealed;
  };  // sealed: encrypted by the caller
  std::vector<SecretRow> put_secrets;
  std::vector<std::string> drop_secrets_of_runs;
  std::map<std::string, std::string> put_meta;
};

struct LiveState {
  std::vector<RunRow> runs;
  std::vector<StageRow> stages;
  std::vector<TimerRow> timers;
  uint64_t last_seq = 0;
  uint64_t last_run_number = 0;
  uint64_t incarnation = 1;
  std::map<std::string, std::string> meta;
};

class Store {
 public:
  virtual ~Store() = default;
  /// Asynchronous and ordered. `done` runs on the store's thread (tests: inline). An error means
  /// the journal is unusable: kJournal, kDiskFull.
  virtual void commit(Batch batch, std::function<void(Status)> done) = 0;

  virtual Result<LiveState> load_live() = 0;
  /// By id, else by name (live first, then the newest ended). kNotFound.
  virtual Result<RunRow> find_run(const std::string& id_or_name) = 0;
  virtual Result<std::optional<RunRow>> find_idempotency_key(const std::string& key) = 0;
  /// Newest first. `all` includes ended runs.
  virtual Result<std::vector<RunRow>> list_runs(bool all, uint32_t limit) = 0;
  virtual Result<std::vector<StageRow>> stages_of(const std::string& run_id) = 0;
  virtual Result<std::vector<EventRow>> events_of(const std::string& run_id, uint64_t after_run_seq,
                                                  uint32_t limit) = 0;
  virtual Result<std::map<std::string, std::string>> secrets_of(const std::string& run_id) = 0;
  /// Invariants as queries, hash chain, integrity: one line per violation, empty when sound.
  virtual Result<std::vector<std::string>> check() = 0;
};

}  // namespace bp::storage
