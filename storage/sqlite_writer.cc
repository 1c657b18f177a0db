#include "storage/sqlite_writer.h"

#include "storage/chain.h"

namespace bp::storage {
namespace {

constexpr size_t kLinksKept = 10'000;

}  // namespace

Result<SqliteWriter> SqliteWriter::open(Database db, int wal_pages) {
  SqliteWriter w;
  w.db_ = std::move(db);
  w.wal_pages_ = wal_pages;
  w.wal_length_ = std::make_unique<int>(0);
  sqlite3_wal_hook(
      w.db_.get(),
      [](void* length, sqlite3*, const char*, int pages) {
        *static_cast<int*>(length) = pages;
        return SQLITE_OK;
      },
      w.wal_length_.get());
  const std::pair<Statement*, const char*> all[] = {
      {&w.begin_, "BEGIN IMMEDIATE"},
      {&w.commit_, "COMMIT"},
      {&w.event_,
       "INSERT INTO events(seq, run_id, run_seq, wall_ms, type, salt, body, body_hash, link) "
       "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)"},
      {&w.link_, "SELECT run_seq, link FROM events WHERE run_id = ? ORDER BY run_seq DESC LIMIT 1"},
      {&w.run_,
       "INSERT INTO runs(run_id, run_number, name, live, state, epoch_counter, created_wall_ms, "
       "updated_wall_ms, idempotency_key, body) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
       "ON CONFLICT(run_id) DO UPDATE SET run_number = excluded.run_number, name = excluded.name, "
       "live = excluded.live, state = excluded.state, epoch_counter = excluded.epoch_counter, "
       "created_wall_ms = excluded.created_wall_ms, updated_wall_ms = excluded.updated_wall_ms, "
       "idempotency_key = excluded.idempotency_key, body = excluded.body"},
      {&w.stage_,
       "INSERT INTO stages(run_id, stage, map_index, state, body) VALUES(?, ?, ?, ?, ?) "
       "ON CONFLICT(run_id, stage, map_index) DO UPDATE SET state = excluded.state, body = "
       "excluded.body"},
      {&w.timer_,
       "INSERT INTO timers(run_id, stage, map_index, kind, epoch_counter, due_boot_ms, "
       "remaining_ms, "
       "boot_id) VALUES(?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(run_id, stage, map_index, kind) DO "
       "UPDATE SET "
       "epoch_counter = excluded.epoch_counter, due_boot_ms = excluded.due_boot_ms, "
       "remaining_ms = excluded.remaining_ms, boot_id = excluded.boot_id"},
      {&w.drop_timer_,
       "DELETE FROM timers WHERE run_id = ? AND stage = ? AND map_index = ? AND kind = ?"},
      {&w.secret_,
       "INSERT INTO secrets(run_id, name, sealed) VALUES(?, ?, ?) "
       "ON CONFLICT(run_id, name) DO UPDATE SET sealed = excluded.sealed"},
      {&w.drop_secrets_, "DELETE FROM secrets WHERE run_id = ?"},
      {&w.meta_,
       "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = "
       "excluded.value"},
      {&w.root_, "INSERT INTO commits(last_seq, root) VALUES(?, ?)"},
  };
  for (const auto& [statement, sql] : all) {
    BP_ASSIGN(*statement, Statement::prepare(w.db_.get(), sql));
  }
  BP_ASSIGN(int64_t last, w.db_.number("SELECT coalesce(max(seq), 0) FROM events"));
  w.last_seq_ = uint64_t(last);
  BP_ASSIGN(w.last_root_, w.db_.text("SELECT root FROM commits ORDER BY last_seq DESC LIMIT 1"));
  return w;
}

Status SqliteWriter::write(const std::vector<const Batch*>& group) {
  links_of_commit_.clear();
  BP_TRY(begin_.run());
  Status done;
  for (const Batch* batch : group) {
    done = put(*batch);
    if (!done.ok()) break;
  }
  if (done.ok()) done = seal();
  if (done.ok()) done = commit_.run();
  if (!done.ok()) {
    // The first error counts. Nothing of the group is durable, whether or not the rollback
    // succeeds.
    sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
    return done;
  }
  if (links_.size() > kLinksKept) links_.clear();
  return {};
}

Status SqliteWriter::checkpoint_if_due() {
  if (*wal_length_ < wal_pages_) return {};
  *wal_length_ = 0;
  const int rc =
      sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (rc == SQLITE_OK || (rc & 0xff) == SQLITE_BUSY) return {};
  return sqlite_error(db_.get(), "checkpoint");
}

Status SqliteWriter::put(const Batch& batch) {
  BP_TRY(put_rows(batch));
  BP_TRY(put_events(batch));
  BP_TRY(put_timers(batch));
  return put_rest(batch);
}

Result<std::string> SqliteWriter::last_link(const std::string& run_id) {
  auto known = links_.find(run_id);
  if (known != links_.end()) return known->second;
  link_.text(run_id);
  Result<bool> row = link_.step();
  if (!row) return std::move(row).error();
  std::string value =
      *row ? std::to_string(link_.int_at(0)) + ":" + link_.bytes_at(1) : std::string("0:");
  link_.reset();
  return value;
}

// links_ holds "run_seq:link", so that a gap is seen without asking the table again.
Status SqliteWriter::put_events(const Batch& batch) {
  for (const EventRow& e : batch.events) {
    if (e.seq != last_seq_ + 1) {
      return Error{
          ErrorCode::kJournal,
          "event " + std::to_string(e.seq) + " does not follow event " + std::to_string(last_seq_),
          {}};
    }
    BP_ASSIGN(std::string last, last_link(e.run_id));
    const size_t colon = last.find(':');
    if (e.run_seq != std::stoull(last.substr(0, colon)) + 1) {
      return Error{ErrorCode::kJournal,
                   "event " + std::to_string(e.run_seq) + " of run " + e.run_id +
                       " does not follow event " + last.substr(0, colon),
                   {}};
    }
    const std::string salt = new_salt();
    const std::string hash = body_hash(salt, e.body);
    const std::string link = chain_link(std::string_view(last).substr(colon + 1), e, hash);
    event_.num(int64_t(e.seq))
        .text(e.run_id)
        .num(int64_t(e.run_seq))
        .num(e.wall_ms)
        .text(e.type)
        .blob(salt)
        .blob(e.body)
        .blob(hash)
        .blob(link);
    BP_TRY(event_.run());
    last_seq_ = e.seq;
    links_of_commit_.push_back(link);
    links_[e.run_id] = std::to_string(e.run_seq) + ":" + link;
  }
  return {};
}

Status SqliteWriter::put_rows(const Batch& batch) {
  for (const RunRow& r : batch.put_runs) {
    run_.text(r.run_id)
        .num(int64_t(r.run_number))
        .text(r.name)
        .num(r.live)
        .num(r.state)
        .num(int64_t(r.epoch_counter))
        .num(r.created_wall_ms)
        .num(r.updated_wall_ms)
        .text(r.idempotency_key)
        .blob(r.body);
    BP_TRY(run_.run());
  }
  for (const StageRow& s : batch.put_stages) {
    stage_.text(s.run_id).text(s.stage).num(s.map_index).num(s.state).blob(s.body);
    BP_TRY(stage_.run());
  }
  return {};
}

Status SqliteWriter::put_timers(const Batch& batch) {
  for (const TimerRow& t : batch.drop_timers) {
    drop_timer_.text(t.run_id).text(t.stage).num(t.map_index).num(t.kind);
    BP_TRY(drop_timer_.run());
  }
  for (const TimerRow& t : batch.put_timers) {
    timer_.text(t.run_id)
        .text(t.stage)
        .num(t.map_index)
        .num(t.kind)
        .num(int64_t(t.epoch_counter))
        .num(t.due_boot_ms)
        .num(t.remaining_ms)
        .text(t.boot_id);
    BP_TRY(timer_.run());
  }
  return {};
}

Status SqliteWriter::put_rest(const Batch& batch) {
  for (const std::string& run_id : batch.drop_secrets_of_runs) {
    drop_secrets_.text(run_id);
    BP_TRY(drop_secrets_.run());
  }
  for (const auto& s : batch.put_secrets) {
    secret_.text(s.run_id).text(s.name).blob(s.sealed);
    BP_TRY(secret_.run());
  }
  for (const auto& [key, value] : batch.put_meta) {
    meta_.text(key).blob(value);
    BP_TRY(meta_.run());
  }
  return {};
}

// One root per commit that has events.
Status SqliteWriter::seal() {
  if (links_of_commit_.empty()) return {};
  const std::string root = commit_root(last_root_, links_of_commit_);
  root_.num(int64_t(last_seq_)).blob(root);
  BP_TRY(root_.run());
  last_root_ = root;
  return {};
}

}  // namespace bp::storage
