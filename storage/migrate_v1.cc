// Version 1 kept rows of runs, stages and timers, an event a row. Its events become entries of the
// log, in their order, whole groups of its commits to a record; its rows are not converted: the
// core replays the log from the first event of the oldest live run. Summaries of ended runs come
// from its rows. Its hash chain is checked by nobody after this; the copy keeps it.
#include <map>

#include "storage/journal_schema.h"
#include "storage/record.h"
#include "storage/varint.h"

namespace bp::storage {
namespace {

constexpr size_t kEntriesPerCommit = 64;
constexpr const char* kOldTables[] = {"runs",    "stages",  "timers", "events",
                                      "commits", "secrets", "meta"};

// Names of the members of bp.v1.Event, as version 1 wrote them.
constexpr std::pair<std::string_view, uint32_t> kTypes[] = {
    {"submitted", 10},      {"dispatched", 11},      {"host_started", 12},
    {"checkpointed", 13},   {"ready", 14},           {"ended", 15},
    {"lost", 16},           {"timer_fired", 17},     {"cancel_requested", 18},
    {"stop_requested", 19}, {"retry_requested", 20}, {"daemon_started", 21},
    {"ended_was_late", 22},
};

Result<uint32_t> type_number(const std::string& name) {
  for (const auto& [known, number] : kTypes) {
    if (known == name) return number;
  }
  return Error{ErrorCode::kJournal, "an event of the unknown type \"" + name + "\"", {}};
}

// The first length-delimited field `number` of a protobuf message; empty when there is none.
std::string_view proto_field(std::string_view message, uint64_t number) {
  for (size_t at = 0; at < message.size();) {
    const auto tag = get_varint(message, at);
    if (!tag) return {};
    if ((*tag & 7) == 2) {
      const auto value = get_field(message, at);
      if (!value) return {};
      if (*tag >> 3 == number) return *value;
    } else if ((*tag & 7) == 0) {
      if (!get_varint(message, at)) return {};
    } else {
      at += (*tag & 7) == 1 ? 8 : 4;
    }
  }
  return {};
}

struct OldRun {
  EndedRow row;
  bool live = false;
  uint64_t last_run_seq = 0;
  uint64_t last_commit = 0;
};

class Migration {
 public:
  explicit Migration(Database& db) : db_(db) {}
  Status run();

 private:
  Status rename_tables();
  Status load_runs();
  Status convert_events();
  Status take(uint64_t seq, Entry entry, OldRun* run, uint64_t first_live_seq);
  Status flush();
  Status convert_rest();

  Database& db_;
  std::map<std::string, OldRun> runs_;
  RecordEncoder encoder_;
  Statement insert_;
  Commit commit_;
  uint64_t replay_from_ = 0;
  std::string root_;
  uint64_t last_run_number_ = 0;
};

Status Migration::rename_tables() {
  for (const char* table : kOldTables)
    BP_TRY(db_.exec("ALTER TABLE " + std::string(table) + " RENAME TO v1_" + table));
  return create_schema(db_);
}

// RunBody: 1 workflow (1 name), 15 error (1 code).
Status Migration::load_runs() {
  BP_ASSIGN(Statement s,
            Statement::prepare(db_.get(),
                               "SELECT run_id, run_number, name, live, state, created_wall_ms, "
                               "updated_wall_ms, idempotency_key, body, (SELECT max(run_seq) FROM "
                               "v1_events e WHERE e.run_id = r.run_id) FROM v1_runs r"));
  while (true) {
    BP_ASSIGN(bool there, s.step());
    if (!there) return {};
    const std::string body = s.bytes_at(8);
    OldRun& run = runs_[s.bytes_at(0)];
    run.row.run_id = s.bytes_at(0);
    run.row.run_number = uint64_t(s.int_at(1));
    run.row.name = s.bytes_at(2);
    run.live = s.int_at(3) != 0;
    run.row.state = int(s.int_at(4));
    run.row.created_wall_ms = s.int_at(5);
    run.row.ended_wall_ms = s.int_at(6);
    run.row.idempotency_key = s.bytes_at(7);
    run.row.workflow = proto_field(proto_field(body, 1), 1);
    run.row.error_code = proto_field(proto_field(body, 15), 1);
    run.last_run_seq = uint64_t(s.int_at(9));
  }
}

Status Migration::flush() {
  if (commit_.entries.empty()) return {};
  commit_.replay_from = replay_from_ == 0 ? commit_.number : replay_from_;
  BP_TRY(check_commit(commit_, commit_.number - 1));
  Record record;
  BP_TRY(encoder_.encode(commit_, root_, last_run_number_, record));
  BP_TRY(put_record(insert_, record));
  root_ = record.root;
  last_run_number_ = record.header.last_run_number;
  const uint64_t number = commit_.number;
  commit_ = {};
  commit_.number = number + 1;
  return {};
}

Status Migration::take(uint64_t seq, Entry e, OldRun* run, uint64_t first_live_seq) {
  commit_.wall_ms = e.wall_ms;
  if (seq == first_live_seq) replay_from_ = commit_.number;
  if (run) {
    e.previous_commit = run->last_commit;
    run->last_commit = commit_.number;
    if (!run->live && e.run_seq == run->last_run_seq) {
      e.next = {Actor::kNobody, 0};
      run->row.last_commit = commit_.number;
      commit_.ended.push_back(run->row);
    }
  }
  commit_.entries.push_back(std::move(e));
  return {};
}

// What had to happen after an event of then is for the daemon to find out, at once.
Status Migration::convert_events() {
  BP_ASSIGN(int64_t first_live_seq,
            db_.number("SELECT min(e.seq) FROM v1_events e JOIN v1_runs r USING(run_id) WHERE "
                       "r.live = 1"));
  BP_ASSIGN(insert_, Statement::prepare(db_.get(), kInsertRecord));
  BP_ASSIGN(Statement s,
            Statement::prepare(db_.get(),
                               "SELECT e.seq, e.run_id, e.run_seq, e.wall_ms, e.type, e.body, "
                               "c.last_seq IS NOT NULL FROM v1_events e LEFT JOIN v1_commits c ON "
                               "c.last_seq = e.seq ORDER BY e.seq"));
  commit_.number = 1;
  while (true) {
    BP_ASSIGN(bool there, s.step());
    if (!there) return flush();
    const std::string run_id = s.bytes_at(1);
    auto run = runs_.find(run_id);
    if (run == runs_.end() && !run_id.empty())
      return Error{ErrorCode::kJournal,
                   "event " + std::to_string(s.int_at(0)) + " is of the unknown run " + run_id,
                   {}};
    Entry e;
    e.run_number = run_id.empty() ? 0 : run->second.row.run_number;
    e.run_seq = uint64_t(s.int_at(2));
    e.wall_ms = s.int_at(3);
    BP_ASSIGN(e.type, type_number(s.bytes_at(4)));
    e.next = {Actor::kDaemon, 1};
    e.body = s.bytes_at(5);
    BP_TRY(take(uint64_t(s.int_at(0)), std::move(e), run_id.empty() ? nullptr : &run->second,
                uint64_t(first_live_seq)));
    if (s.int_at(6) != 0 && commit_.entries.size() >= kEntriesPerCommit) BP_TRY(flush());
  }
}

Status Migration::convert_rest() {
  return db_.exec(
      "INSERT INTO secrets(run_number, name, sealed) SELECT r.run_number, s.name, s.sealed FROM "
      "v1_secrets s JOIN v1_runs r USING(run_id);"
      "INSERT INTO old_ids(run_id, run_number) SELECT run_id, run_number FROM v1_runs;"
      "INSERT INTO facts(key, value) SELECT key, value FROM v1_meta WHERE key IN ('incarnation', "
      "'file_identity');"
      "INSERT INTO meta(key, value) SELECT key, value FROM v1_meta WHERE key NOT IN "
      "('incarnation', 'file_identity')");
}

Status Migration::run() {
  BP_TRY(rename_tables());
  BP_TRY(load_runs());
  BP_TRY(convert_events());
  BP_TRY(convert_rest());
  insert_ = Statement();
  for (const char* table : {"timers", "stages", "events", "commits", "secrets", "meta", "runs"})
    BP_TRY(db_.exec("DROP TABLE v1_" + std::string(table)));
  return {};
}

}  // namespace

Status migrate_from_v1(Database& db) { return Migration(db).run(); }

}  // namespace bp::storage
