// The journal's invariants as queries, SQLite's own check of the file, the chain and its seals.
#include "storage/journal_reader.h"
#include "storage/seal.h"

namespace bp::storage {
namespace {

struct Invariant {
  const char* text;
  const char* violations;  // one text column: who violates it
};

constexpr Invariant kInvariants[] = {
    {"a live row that is ahead of the log",
     "SELECT run_id FROM live WHERE last_commit > (SELECT coalesce(max(number), 0) FROM log)"},
    {"a live row of a run that the log does not know",
     "SELECT run_id FROM live WHERE run_number > (SELECT coalesce(max(last_run_number), 0) FROM "
     "log WHERE number = (SELECT max(number) FROM log))"},
    {"two live rows of one run", "SELECT run_id FROM live GROUP BY run_id HAVING count(*) > 1"},
    {"secrets of a run that the log does not know",
     "SELECT run_number || ' ' || name FROM secrets WHERE run_number > (SELECT "
     "coalesce(max(last_run_number), 0) FROM log WHERE number = (SELECT max(number) FROM log))"},
    {"the tail to replay begins before the log does",
     "SELECT CAST(replay_from AS TEXT) FROM log WHERE number = (SELECT max(number) FROM log) AND "
     "replay_from > 0 AND replay_from < (SELECT min(number) FROM log)"},
    {"a seal of a commit to come",
     "SELECT CAST(max(number) AS TEXT) FROM seals HAVING max(number) > (SELECT "
     "coalesce(max(number), 0) FROM log)"},
};

constexpr size_t kLinesMax = 100;

Status collect(Database& db, const char* sql, const std::string& text,
               std::vector<std::string>& lines) {
  BP_ASSIGN(Statement s, Statement::prepare(db.get(), sql));
  while (lines.size() < kLinesMax) {
    BP_ASSIGN(bool row, s.step());
    if (!row) break;
    lines.push_back(text + ": " + s.bytes_at(0));
  }
  return {};
}

Finding bad_seal(uint64_t number, const std::string& found, const std::string& expected) {
  return {number, 0, "its seal does not hold", found, expected};
}

}  // namespace

Status JournalReader::check_rows(bool integrity, std::vector<std::string>& lines) {
  if (integrity) {
    BP_ASSIGN(Statement s, Statement::prepare(db_.get(), "PRAGMA quick_check(20)"));
    while (true) {
      BP_ASSIGN(bool row, s.step());
      if (!row) break;
      if (s.bytes_at(0) != "ok") lines.push_back("the file is damaged: " + s.bytes_at(0));
    }
  }
  BP_TRY(db_.exec("BEGIN"));
  Status done;
  for (const Invariant& i : kInvariants) {
    if (done.ok()) done = collect(db_, i.violations, i.text, lines);
  }
  Status ended = db_.exec("COMMIT");
  if (!done.ok()) return done;
  return ended;
}

Status JournalReader::check_chain(const std::string& public_key, ChainCheck& chain,
                                  std::vector<Finding>& seals) {
  BP_ASSIGN(auto known, range());
  const uint64_t newest = known.second;
  BP_ASSIGN(Statement next, Statement::prepare(db_.get(),
                                               "SELECT number, wall_ms, public_key, signature FROM "
                                               "seals WHERE number >= ? ORDER BY number LIMIT 1"));
  struct {
    uint64_t number = 0;
    int64_t wall_ms = 0;
    std::string key, signature;
  } seal;
  uint64_t checked = 0;
  auto advance = [&](uint64_t from) -> Status {
    next.reset();
    next.num(int64_t(from));
    BP_ASSIGN(bool row, next.step());
    seal = {};
    if (row) seal = {uint64_t(next.int_at(0)), next.int_at(1), next.bytes_at(2), next.bytes_at(3)};
    next.reset();
    return {};
  };
  if (!public_key.empty()) BP_TRY(advance(known.first));
  BP_TRY(each_record(known.first, newest, [&](const Record& r) -> Status {
    chain.record(r);
    if (seal.number != r.header.number) return {};
    if (seal.key != public_key)
      seals.push_back(bad_seal(seal.number, "public key " + hex(seal.key), hex(public_key)));
    else if (!seal_holds(seal.number, seal.wall_ms, r.root, seal.key, seal.signature))
      seals.push_back(
          bad_seal(seal.number, "a signature of something else", "one of root " + hex(r.root)));
    ++checked;
    return advance(seal.number + 1);
  }));
  chain.end(newest);
  if (!public_key.empty() && checked == 0 && newest != 0)
    seals.push_back({newest, 0, "no commit is sealed", "no signature", "one by the given key"});
  return {};
}

}  // namespace bp::storage
