// The simulated disk under plain SQLite: what is committed survives every crash with every kind of
// tail, and what nobody synced is seen to be lost. If this disk were too kind, nothing that is
// built on it would prove anything.
#include "tests/sim/crash_vfs.h"

#include <catch2/catch.hpp>
#include <cstdlib>

using namespace bp::sim;

namespace {

struct Connection {
  sqlite3* db = nullptr;
  explicit Connection(const CrashVfs& vfs) {
    REQUIRE(sqlite3_open_v2("j.db", &db,
                            SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                            vfs.name().c_str()) == SQLITE_OK);
  }
  ~Connection() { sqlite3_close(db); }
  int run(const std::string& sql) {
    return sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr);
  }
  std::string ask(const std::string& sql) {
    std::string out;
    const int rc = sqlite3_exec(
        db, sql.c_str(),
        [](void* to, int, char** values, char**) {
          *static_cast<std::string*>(to) += values[0] ? values[0] : "";
          return 0;
        },
        &out, nullptr);
    return rc == SQLITE_OK ? out : "error " + std::to_string(rc);
  }
};

struct Point {
  uint64_t number;
  DiskOp op;
  Tail tail;
  int acknowledged;
  Disk disk;
};

// Commits rows 1, 2, ... of growing size with checkpoints between; every operation is a point.
std::vector<Point> history(const std::string& synchronous) {
  CrashVfs vfs("history", 1);
  std::mt19937_64 random(7);
  std::vector<Point> points;
  int acknowledged = 0;
  bool counting = false;
  vfs.before = [&](uint64_t number, DiskOp op) {
    if (counting) {
      for (Tail tail : kTails)
        points.push_back({number, op, tail, acknowledged, vfs.disk().after_crash(tail, random)});
    }
    return Verdict::kGo;
  };
  Connection c(vfs);
  REQUIRE(c.ask("PRAGMA journal_mode = WAL") == "wal");
  REQUIRE(c.run("PRAGMA synchronous = " + synchronous + "; PRAGMA wal_autocheckpoint = 0;"
                "CREATE TABLE t(n INTEGER PRIMARY KEY, body BLOB) STRICT") == SQLITE_OK);
  REQUIRE(c.run("PRAGMA wal_checkpoint(RESTART)") == SQLITE_OK);
  counting = true;
  for (int n = 1; n <= 12; ++n) {
    REQUIRE(c.run("INSERT INTO t VALUES(" + std::to_string(n) + ", zeroblob(" +
                  std::to_string(n * 900) + "))") == SQLITE_OK);
    acknowledged = n;
    if (n % 5 == 0) REQUIRE(c.run("PRAGMA wal_checkpoint(RESTART)") == SQLITE_OK);
  }
  counting = false;
  return points;
}

int lost(const std::vector<Point>& points, bool must_be_sound) {
  int count = 0;
  for (const Point& p : points) {
    CrashVfs vfs("reopened", 2);
    vfs.disk() = p.disk;
    Connection c(vfs);
    const std::string sound = c.ask("PRAGMA integrity_check");
    const std::string found = c.ask("SELECT count(*) FROM t");
    const std::string last = c.ask("SELECT coalesce(max(n), 0) FROM t");
    if (must_be_sound) {
      INFO("operation " << p.number << " " << name_of(p.op) << ", tail " << name_of(p.tail)
                        << ", acknowledged " << p.acknowledged);
      CHECK(sound == "ok");
      CHECK(found == last);
    }
    count += sound != "ok" || std::atoi(found.c_str()) < p.acknowledged;
  }
  return count;
}

}  // namespace

TEST_CASE("crash vfs: SQLite loses nothing that it committed with synchronous FULL") {
  const auto points = history("FULL");
  CHECK(points.size() > 4 * 100);
  CHECK(lost(points, true) == 0);
}

TEST_CASE("crash vfs: commits that were not synced are lost") {
  const auto points = history("OFF");
  CHECK(lost(points, false) > int(points.size()) / 10);
}

TEST_CASE("crash vfs: an error and a full disk reach the caller, and nothing is written") {
  for (auto verdict : {Verdict::kError, Verdict::kFull}) {
    CrashVfs vfs("failing", 1);
    Connection c(vfs);
    REQUIRE(c.run("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t(n)") ==
            SQLITE_OK);
    vfs.before = [&](uint64_t, DiskOp) { return verdict; };
    CHECK(c.run("INSERT INTO t VALUES(1)") ==
          (verdict == Verdict::kError ? SQLITE_IOERR : SQLITE_FULL));
    vfs.before = nullptr;
    std::mt19937_64 random(1);
    vfs.die(Tail::kKept, random);
    CHECK(c.run("INSERT INTO t VALUES(2)") != SQLITE_OK);
    vfs.revive();
    CHECK(c.run("INSERT INTO t VALUES(3)") != SQLITE_OK);  // the old connection stays dead
    Connection again(vfs);
    CHECK(again.ask("SELECT count(*) FROM t") == "0");
  }
}

TEST_CASE("crash vfs: two connections see each other's commits, and one writes at a time") {
  CrashVfs vfs("two", 1);
  Connection a(vfs), b(vfs);
  REQUIRE(a.run("PRAGMA journal_mode = WAL; CREATE TABLE t(n)") == SQLITE_OK);
  REQUIRE(a.run("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)") == SQLITE_OK);
  CHECK(b.run("BEGIN IMMEDIATE") == SQLITE_BUSY);
  CHECK(b.ask("SELECT count(*) FROM t") == "0");
  REQUIRE(a.run("COMMIT") == SQLITE_OK);
  CHECK(b.ask("SELECT count(*) FROM t") == "1");
  CHECK(b.run("INSERT INTO t VALUES(2)") == SQLITE_OK);
  CHECK(a.ask("SELECT count(*) FROM t") == "2");
}

TEST_CASE("disk: each kind of tail leaves what it may") {
  std::mt19937_64 random(3);
  bool cut = false, hole = false;
  for (int i = 0; i < 200; ++i) {
    Disk disk;
    disk.create("f");
    disk.write("f", 0, std::string(3000, 'a').data(), 3000);
    disk.sync("f");
    disk.sync_names();
    disk.write("f", 100, std::string(2000, 'b').data(), 2000);
    disk.write("f", 6000, std::string(600, 'c').data(), 600);
    CHECK(disk.after_crash(Tail::kKept, random).contents("f") == disk.contents("f"));
    CHECK(disk.after_crash(Tail::kLost, random).contents("f") == std::string(3000, 'a'));
    const std::string torn = disk.after_crash(Tail::kTorn, random).contents("f");
    CHECK(torn.substr(0, 100) == std::string(100, 'a'));
    const size_t end = torn.find('a', 100);
    CHECK((end == 100 || end == 2100 || end % 512 == 0));
    cut = cut || (end > 100 && end < 2100);
    const std::string some = disk.after_crash(Tail::kReordered, random).contents("f");
    hole = hole || (some.size() == 6600 && some[100] == 'a');
  }
  CHECK(cut);
  CHECK(hole);
}
