#include "storage/journal_writer.h"

#include "storage/journal_schema.h"

namespace bp::storage {

Status JournalWriter::prepare_all() {
  const std::pair<Statement*, const char*> all[] = {
      {&begin_, "BEGIN IMMEDIATE"},
      {&commit_, "COMMIT"},
      {&log_, kInsertRecord},
      {&live_,
       "INSERT INTO live(run_number, run_id, name, state, run_seq, last_commit, actor, by_boot_ms, "
       "why, body) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(run_number) DO UPDATE SET "
       "run_id = excluded.run_id, name = excluded.name, state = excluded.state, "
       "run_seq = excluded.run_seq, last_commit = excluded.last_commit, actor = excluded.actor, "
       "by_boot_ms = excluded.by_boot_ms, why = excluded.why, body = excluded.body"},
      {&drop_live_, "DELETE FROM live WHERE run_number = ?"},
      {&secret_,
       "INSERT INTO secrets(run_number, name, sealed) VALUES(?, ?, ?) "
       "ON CONFLICT(run_number, name) DO UPDATE SET sealed = excluded.sealed"},
      {&drop_secrets_, "DELETE FROM secrets WHERE run_number = ?"},
      {&meta_,
       "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = "
       "excluded.value"},
      {&drop_meta_, "DELETE FROM meta WHERE key = ?"},
      {&blob_, "INSERT INTO blobs(hash, body) VALUES(?, ?) ON CONFLICT(hash) DO NOTHING"},
      {&drop_blob_, "DELETE FROM blobs WHERE hash = ?"},
      {&seal_,
       "INSERT INTO seals(number, wall_ms, public_key, signature) VALUES(?, ?, ?, ?) ON CONFLICT "
       "DO NOTHING"},
  };
  for (const auto& [statement, sql] : all) {
    BP_ASSIGN(*statement, Statement::prepare(db_.get(), sql));
  }
  return {};
}

Result<JournalWriter> JournalWriter::open(Database db, int wal_pages) {
  JournalWriter w;
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
  BP_TRY(w.prepare_all());
  BP_ASSIGN(Statement last,
            Statement::prepare(w.db_.get(),
                               "SELECT number, last_run_number, root FROM log ORDER BY number DESC "
                               "LIMIT 1"));
  BP_ASSIGN(bool row, last.step());
  if (row) {
    w.last_number_ = uint64_t(last.int_at(0));
    w.last_run_number_ = uint64_t(last.int_at(1));
    w.last_root_ = last.bytes_at(2);
  }
  return w;
}

Status JournalWriter::write(const std::vector<const Commit*>& group,
                            std::vector<std::string>& roots) {
  BP_TRY(begin_.run());
  Status done;
  for (const Commit* c : group) {
    done = put(*c);
    if (!done.ok()) break;
    roots.push_back(last_root_);
  }
  if (done.ok()) done = put_seal();
  if (done.ok()) done = commit_.run();
  // The first error counts. Nothing of the group is durable, whether or not the rollback succeeds.
  if (!done.ok()) sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  return done;
}

Status JournalWriter::transact(const std::function<Status(Database&)>& work) {
  BP_TRY(begin_.run());
  Status done = work(db_);
  if (done.ok()) done = put_seal();
  if (done.ok()) done = commit_.run();
  if (!done.ok()) sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  return done;
}

Status JournalWriter::checkpoint() {
  *wal_length_ = 0;
  const int rc =
      sqlite3_wal_checkpoint_v2(db_.get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (rc == SQLITE_OK || (rc & 0xff) == SQLITE_BUSY) return {};
  return sqlite_error(db_.get(), "checkpoint");
}

void JournalWriter::seal(const SigningKey& key, int64_t wall_ms) {
  if (last_number_ == 0) return;
  pending_seal_ = Seal{last_number_, wall_ms, key.public_key,
                       sign_root(key, last_number_, wall_ms, last_root_)};
}

Status JournalWriter::put_seal() {
  if (!pending_seal_) return {};
  seal_.num(int64_t(pending_seal_->number))
      .num(pending_seal_->wall_ms)
      .blob(pending_seal_->public_key)
      .blob(pending_seal_->signature);
  BP_TRY(seal_.run());
  pending_seal_.reset();
  return {};
}

Status JournalWriter::put(const Commit& c) {
  BP_TRY(check_commit(c, last_number_));
  BP_TRY(put_record(c));
  BP_TRY(put_live(c));
  return put_rest(c);
}

Status JournalWriter::put_record(const Commit& c) {
  BP_TRY(encoder_.encode(c, last_root_, last_run_number_, record_));
  const RecordHeader& h = record_.header;
  BP_TRY(storage::put_record(log_, record_));
  last_number_ = h.number;
  last_run_number_ = h.last_run_number;
  last_root_ = record_.root;
  return {};
}

Status JournalWriter::put_live(const Commit& c) {
  for (uint64_t run : c.drop_live) {
    drop_live_.num(int64_t(run));
    BP_TRY(drop_live_.run());
  }
  for (const LiveRow& r : c.put_live) {
    live_.num(int64_t(r.run_number))
        .text(r.run_id)
        .text(r.name)
        .num(r.state)
        .num(int64_t(r.run_seq))
        .num(int64_t(r.last_commit))
        .num(int64_t(r.next.actor))
        .num(r.next.by_boot_ms)
        .text(r.why)
        .blob(r.body);
    BP_TRY(live_.run());
  }
  return {};
}

Status JournalWriter::put_rest(const Commit& c) {
  for (uint64_t run : c.drop_secrets_of_runs) {
    drop_secrets_.num(int64_t(run));
    BP_TRY(drop_secrets_.run());
  }
  for (const auto& s : c.put_secrets) {
    secret_.num(int64_t(s.run_number)).text(s.name).blob(s.sealed);
    BP_TRY(secret_.run());
  }
  for (const std::string& key : c.drop_meta) {
    drop_meta_.text(key);
    BP_TRY(drop_meta_.run());
  }
  for (const auto& [key, value] : c.put_meta) {
    meta_.text(key).blob(value);
    BP_TRY(meta_.run());
  }
  for (const std::string& hash : c.drop_blobs) {
    drop_blob_.text(hash);
    BP_TRY(drop_blob_.run());
  }
  for (const auto& [hash, bytes] : c.put_blobs) {
    blob_.text(hash).blob(bytes);
    BP_TRY(blob_.run());
  }
  return {};
}

}  // namespace bp::storage
