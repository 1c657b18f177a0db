// A disk that fails: SQLite's file calls are replaced by ones that can be told to fail. After an
// error the store must never report success again, and nothing acknowledged may be lost.
#include <sqlite3.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <future>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "storage/sqlite_store.h"

using namespace bp;
using namespace bp::storage;

namespace {

std::atomic<bool> g_fail_sync{false};
std::atomic<int> g_failed{0};
std::atomic<bool> g_only_main{false};
sqlite3_vfs* g_real = nullptr;
const sqlite3_io_methods* g_real_methods = nullptr;
const sqlite3_io_methods* g_real_main = nullptr;
sqlite3_io_methods g_methods, g_main_methods;

int sync_or_fail(sqlite3_file* file, int flags) {
  const bool main_file = file->pMethods == &g_main_methods;
  if (g_fail_sync && (main_file || !g_only_main)) {
    ++g_failed;
    return SQLITE_IOERR_FSYNC;
  }
  return (main_file ? g_real_main : g_real_methods)->xSync(file, flags);
}

int open_wrapped(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  const int rc = g_real->xOpen(g_real, name, file, flags, out_flags);
  if (rc != SQLITE_OK || !file->pMethods) return rc;
  if (flags & SQLITE_OPEN_MAIN_DB) {
    g_real_main = file->pMethods;
    g_main_methods = *file->pMethods;
    g_main_methods.xSync = sync_or_fail;
    file->pMethods = &g_main_methods;
  } else if (flags & SQLITE_OPEN_WAL) {
    g_real_methods = file->pMethods;
    g_methods = *file->pMethods;
    g_methods.xSync = sync_or_fail;
    file->pMethods = &g_methods;
  }
  return rc;
}

// The default of this process while it lives.
struct FailingDisk {
  sqlite3_vfs vfs{};
  FailingDisk() {
    g_real = sqlite3_vfs_find(nullptr);
    vfs = *g_real;
    vfs.zName = "failing";
    vfs.xOpen = open_wrapped;
    g_fail_sync = g_only_main = false;
    g_failed = 0;
    REQUIRE(sqlite3_vfs_register(&vfs, 1) == SQLITE_OK);
  }
  ~FailingDisk() {
    sqlite3_vfs_unregister(&vfs);
    sqlite3_vfs_register(g_real, 1);
  }
};

Batch numbered(uint64_t n) {
  Batch b;
  b.events = {{n, "run-1", n, 1, "ended", std::string(3000, 'x')}};
  RunRow r;
  r.run_id = r.name = "run-1";
  r.run_number = 1;
  r.state = 2;
  b.put_runs = {r};
  b.put_stages = {{"run-1", "one", 0, 1, "x"}};
  return b;
}

Status commit(Store& store, Batch batch) {
  std::promise<Status> done;
  auto future = done.get_future();
  store.commit(std::move(batch), [&](Status s) { done.set_value(std::move(s)); });
  REQUIRE(future.wait_for(std::chrono::seconds(20)) == std::future_status::ready);
  return future.get();
}

}  // namespace

TEST_CASE("sqlite store: a failed fsync ends all commits, and what was acknowledged stays") {
  const std::string dir = "/tmp/" + random_id("bp-fsync");
  REQUIRE(make_dirs(dir).ok());
  uint64_t acknowledged = 0;
  {
    FailingDisk disk;
    {
      auto store = SqliteStore::open({dir + "/journal.db", 60}).value();
      for (uint64_t n = 1; n <= 10; ++n) {
        REQUIRE(commit(*store, numbered(n)).ok());
        acknowledged = n;
      }
      SECTION("of the log, in a commit") {}
      SECTION("of the file, in a checkpoint") { g_only_main = true; }
      g_fail_sync = true;
      Status failed;
      for (uint64_t n = acknowledged + 1; n < 200 && failed.ok(); ++n) {
        failed = commit(*store, numbered(n));
        if (failed.ok()) acknowledged = n;
      }
      REQUIRE(!failed.ok());
      CHECK(failed.error().code == ErrorCode::kJournal);
      CHECK(g_failed == 1);
      g_fail_sync = false;  // the disk is well again: too late
      CHECK(!commit(*store, numbered(acknowledged + 1)).ok());
      CHECK(g_failed == 1);
    }
  }
  auto store = SqliteStore::open({dir + "/journal.db", 60}).value();
  CHECK(store->load_live()->last_seq >= acknowledged);
  CHECK(store->check()->empty());
  store.reset();
  CHECK(remove_tree(dir).ok());
}
