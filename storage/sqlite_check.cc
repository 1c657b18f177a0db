// The journal's invariants as queries, SQLite's own check of the file, and the hash chain.
#include "storage/chain.h"
#include "storage/sqlite_reader.h"

namespace bp::storage {
namespace {

struct Invariant {
  const char* text;
  const char* violations;  // one text column: who violates it
};

constexpr Invariant kInvariants[] = {
    {"a timer of a run that has ended",
     "SELECT t.run_id || ' ' || t.stage FROM timers t JOIN runs r USING(run_id) WHERE r.live = 0"},
    {"a timer of a stage that does not exist",
     "SELECT run_id || ' ' || stage FROM timers t WHERE NOT EXISTS (SELECT 1 FROM stages s WHERE "
     "s.run_id = t.run_id AND s.stage = t.stage AND s.map_index = t.map_index)"},
    {"a run without stages",
     "SELECT run_id FROM runs r WHERE NOT EXISTS (SELECT 1 FROM stages s WHERE s.run_id = "
     "r.run_id)"},
    {"a run without events",
     "SELECT run_id FROM runs r WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.run_id = "
     "r.run_id)"},
    {"a timer of an epoch that its run has not reached",
     "SELECT t.run_id || ' ' || t.stage FROM timers t JOIN runs r USING(run_id) "
     "WHERE t.epoch_counter > r.epoch_counter"},
    {"secrets of a run that does not exist",
     "SELECT s.run_id || ' ' || s.name FROM secrets s WHERE NOT EXISTS "
     "(SELECT 1 FROM runs r WHERE r.run_id = s.run_id)"},
    {"a gap in the events",
     "SELECT 'before event ' || min(seq) FROM events HAVING count(*) <> max(seq) - min(seq) + 1"},
    {"a gap in the events of a run",
     "SELECT run_id FROM events GROUP BY run_id HAVING count(*) <> max(run_seq) - min(run_seq) + "
     "1"},
    {"events behind the last sealed commit",
     "SELECT CAST(max(seq) AS TEXT) FROM events HAVING max(seq) > (SELECT coalesce(max(last_seq), "
     "0) FROM commits)"},
    {"a sealed commit whose events are gone",
     "SELECT CAST(max(last_seq) AS TEXT) FROM commits HAVING max(last_seq) > (SELECT "
     "coalesce(max(seq), 0) FROM events)"},
};

constexpr size_t kLinesMax = 100;

Status collect(Database& db, const char* sql, const std::string& text,
               std::vector<std::string>& found) {
  BP_ASSIGN(Statement s, Statement::prepare(db.get(), sql));
  while (found.size() < kLinesMax) {
    BP_ASSIGN(bool row, s.step());
    if (!row) break;
    found.push_back(text + ": " + s.bytes_at(0));
  }
  return {};
}

Status check_file(Database& db, std::vector<std::string>& found) {
  BP_ASSIGN(Statement s, Statement::prepare(db.get(), "PRAGMA quick_check(20)"));
  while (true) {
    BP_ASSIGN(bool row, s.step());
    if (!row) break;
    if (s.bytes_at(0) != "ok") found.push_back("the file is damaged: " + s.bytes_at(0));
  }
  BP_ASSIGN(Statement keys, Statement::prepare(db.get(), "PRAGMA foreign_key_check"));
  while (found.size() < kLinesMax) {
    BP_ASSIGN(bool row, keys.step());
    if (!row) break;
    found.push_back("a row of table " + keys.bytes_at(0) + " belongs to no run");
  }
  return {};
}

}  // namespace

Status check_chain(Database& db, std::vector<std::string>& found) {
  BP_ASSIGN(Statement s,
            Statement::prepare(db.get(),
                               "SELECT e.seq, e.run_id, e.run_seq, e.wall_ms, e.type, e.salt, "
                               "e.body IS NULL, e.body, e.body_hash, e.link, c.root FROM events e "
                               "LEFT JOIN commits c ON c.last_seq = e.seq ORDER BY e.seq"));
  std::map<std::string, std::string> last;
  std::string root;
  std::vector<std::string> links;
  while (found.size() < kLinesMax) {
    BP_ASSIGN(bool row, s.step());
    if (!row) break;
    EventRow e{uint64_t(s.int_at(0)), s.bytes_at(1), uint64_t(s.int_at(2)),
               s.int_at(3),           s.bytes_at(4), {}};
    const std::string who = "event " + std::to_string(e.seq) + " of run " + e.run_id;
    const std::string hash = s.bytes_at(8);
    const bool erased = s.int_at(6) != 0;
    if (!erased && body_hash(s.bytes_at(5), s.bytes_at(7)) != hash)
      found.push_back(who + " was altered: its body");
    const std::string link = s.bytes_at(9);
    if (chain_link(last[e.run_id], e, hash) != link)
      found.push_back(who + " breaks the hash chain");
    last[e.run_id] = link;
    links.push_back(link);
    if (const std::string stored = s.bytes_at(10); !stored.empty()) {
      root = commit_root(root, links);
      links.clear();
      if (root != stored)
        found.push_back("the commit that ends with " + who + " breaks the chain of commits");
      root = stored;
    }
  }
  return {};
}

Result<std::vector<std::string>> SqliteStore::Reader::check() {
  std::vector<std::string> found;
  BP_TRY(db.exec("BEGIN"));
  Status done = check_file(db, found);
  for (const Invariant& i : kInvariants) {
    if (done.ok()) done = collect(db, i.violations, i.text, found);
  }
  if (done.ok()) done = check_chain(db, found);
  Status ended = db.exec("COMMIT");
  if (!done.ok()) return std::move(done).error();
  if (!ended.ok()) return std::move(ended).error();
  return found;
}

}  // namespace bp::storage
