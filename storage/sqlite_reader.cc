#include "storage/sqlite_reader.h"

namespace bp::storage {
namespace {

constexpr const char* kRunColumns =
    "SELECT run_id, run_number, name, live, state, epoch_counter, created_wall_ms, "
    "updated_wall_ms, "
    "idempotency_key, body FROM runs ";

RunRow run_row(const Statement& s) {
  RunRow r;
  r.run_id = s.bytes_at(0);
  r.run_number = uint64_t(s.int_at(1));
  r.name = s.bytes_at(2);
  r.live = s.int_at(3) != 0;
  r.state = int(s.int_at(4));
  r.epoch_counter = uint64_t(s.int_at(5));
  r.created_wall_ms = s.int_at(6);
  r.updated_wall_ms = s.int_at(7);
  r.idempotency_key = s.bytes_at(8);
  r.body = s.bytes_at(9);
  return r;
}

/// Calls `take` for each row.
template <class F>
Status each(Statement& s, F take) {
  while (true) {
    BP_ASSIGN(bool row, s.step());
    if (!row) return {};
    take(s);
  }
}

Status load_timers(Database& db, LiveState& live) {
  BP_ASSIGN(Statement s,
            Statement::prepare(db.get(),
                               "SELECT run_id, stage, map_index, kind, epoch_counter, due_boot_ms, "
                               "remaining_ms, boot_id FROM timers"));
  return each(s, [&](const Statement& row) {
    live.timers.push_back({row.bytes_at(0), row.bytes_at(1), uint32_t(row.int_at(2)),
                           int(row.int_at(3)), uint64_t(row.int_at(4)), row.int_at(5),
                           row.int_at(6), row.bytes_at(7)});
  });
}

Status load_meta(Database& db, LiveState& live) {
  BP_ASSIGN(Statement meta, Statement::prepare(db.get(), "SELECT key, value FROM meta"));
  return each(meta, [&](const Statement& row) { live.meta[row.bytes_at(0)] = row.bytes_at(1); });
}

Result<LiveState> load(Database& db) {
  LiveState live;
  BP_ASSIGN(Statement runs, Statement::prepare(db.get(), std::string(kRunColumns) +
                                                             "WHERE live = 1 ORDER BY run_number"));
  BP_TRY(each(runs, [&](const Statement& row) { live.runs.push_back(run_row(row)); }));
  BP_ASSIGN(Statement stages,
            Statement::prepare(db.get(),
                               "SELECT s.run_id, s.stage, s.map_index, s.state, s.body FROM runs r "
                               "JOIN stages s ON s.run_id = r.run_id WHERE r.live = 1"));
  BP_TRY(each(stages, [&](const Statement& row) {
    live.stages.push_back({row.bytes_at(0), row.bytes_at(1), uint32_t(row.int_at(2)),
                           int(row.int_at(3)), row.bytes_at(4)});
  }));
  BP_TRY(load_timers(db, live));
  BP_TRY(load_meta(db, live));
  BP_ASSIGN(int64_t seq, db.number("SELECT coalesce(max(seq), 0) FROM events"));
  BP_ASSIGN(int64_t number, db.number("SELECT coalesce(max(run_number), 0) FROM runs"));
  live.last_seq = uint64_t(seq);
  live.last_run_number = uint64_t(number);
  auto incarnation = live.meta.find("incarnation");
  if (incarnation != live.meta.end()) {
    BP_ASSIGN(live.incarnation, read_number(incarnation->second, "its incarnation"));
  }
  return live;
}

}  // namespace

// One read transaction: all tables as of one commit.
Result<LiveState> SqliteStore::Reader::load_live() {
  BP_TRY(db.exec("BEGIN"));
  Result<LiveState> live = load(db);
  Status ended = db.exec("COMMIT");
  if (live.ok() && !ended.ok()) return std::move(ended).error();
  return live;
}

Result<std::vector<RunRow>> SqliteStore::Reader::runs(const std::string& where_and_order,
                                                      const std::string& value, uint32_t limit) {
  BP_ASSIGN(Statement s, Statement::prepare(db.get(), kRunColumns + where_and_order + " LIMIT " +
                                                          std::to_string(limit)));
  if (where_and_order.find('?') != std::string::npos) s.text(value);
  std::vector<RunRow> rows;
  BP_TRY(each(s, [&](const Statement& row) { rows.push_back(run_row(row)); }));
  return rows;
}

Result<LiveState> SqliteStore::load_live() {
  std::lock_guard lock(reader_->mutex);
  return reader_->load_live();
}

Result<RunRow> SqliteStore::find_run(const std::string& id_or_name) {
  std::lock_guard lock(reader_->mutex);
  for (const char* where : {"WHERE run_id = ?", "WHERE name = ? AND live = 1",
                            "WHERE name = ? ORDER BY run_number DESC"}) {
    BP_ASSIGN(std::vector<RunRow> rows, reader_->runs(where, id_or_name, 1));
    if (!rows.empty()) return rows.front();
  }
  return Error{ErrorCode::kNotFound, "there is no deployment \"" + id_or_name + "\"", {}};
}

Result<std::optional<RunRow>> SqliteStore::find_idempotency_key(const std::string& key) {
  if (key.empty()) return std::optional<RunRow>();
  std::lock_guard lock(reader_->mutex);
  BP_ASSIGN(std::vector<RunRow> rows,
            reader_->runs("WHERE idempotency_key = ? AND idempotency_key <> ''", key, 1));
  return rows.empty() ? std::optional<RunRow>() : std::optional<RunRow>(rows.front());
}

Result<std::vector<RunRow>> SqliteStore::list_runs(bool all, uint32_t limit) {
  std::lock_guard lock(reader_->mutex);
  return reader_->runs(all ? "ORDER BY run_number DESC" : "WHERE live = 1 ORDER BY run_number DESC",
                       {}, limit);
}

Result<std::vector<StageRow>> SqliteStore::stages_of(const std::string& run_id) {
  std::lock_guard lock(reader_->mutex);
  BP_ASSIGN(Statement s, Statement::prepare(reader_->db.get(),
                                            "SELECT run_id, stage, map_index, state, body FROM "
                                            "stages WHERE run_id = ? ORDER BY stage, map_index"));
  s.text(run_id);
  std::vector<StageRow> rows;
  BP_TRY(each(s, [&](const Statement& row) {
    rows.push_back({row.bytes_at(0), row.bytes_at(1), uint32_t(row.int_at(2)), int(row.int_at(3)),
                    row.bytes_at(4)});
  }));
  return rows;
}

Result<std::vector<EventRow>> SqliteStore::events_of(const std::string& run_id,
                                                     uint64_t after_run_seq, uint32_t limit) {
  std::lock_guard lock(reader_->mutex);
  BP_ASSIGN(Statement s,
            Statement::prepare(reader_->db.get(),
                               "SELECT seq, run_id, run_seq, wall_ms, type, body FROM events "
                               "WHERE run_id = ? AND run_seq > ? ORDER BY run_seq LIMIT ?"));
  s.text(run_id).num(int64_t(after_run_seq)).num(limit);
  std::vector<EventRow> rows;
  BP_TRY(each(s, [&](const Statement& row) {
    rows.push_back({uint64_t(row.int_at(0)), row.bytes_at(1), uint64_t(row.int_at(2)),
                    row.int_at(3), row.bytes_at(4), row.bytes_at(5)});
  }));
  return rows;
}

Result<std::map<std::string, std::string>> SqliteStore::secrets_of(const std::string& run_id) {
  std::lock_guard lock(reader_->mutex);
  BP_ASSIGN(Statement s, Statement::prepare(reader_->db.get(),
                                            "SELECT name, sealed FROM secrets WHERE run_id = ?"));
  s.text(run_id);
  std::map<std::string, std::string> secrets;
  BP_TRY(each(s, [&](const Statement& row) { secrets[row.bytes_at(0)] = row.bytes_at(1); }));
  return secrets;
}

Result<std::vector<std::string>> SqliteStore::check() {
  std::lock_guard lock(reader_->mutex);
  return reader_->check();
}

}  // namespace bp::storage
