// A disk that fails: SQLite's file calls are replaced by ones that can be told to fail. After an
// error the store must never report success again, and nothing acknowledged may be lost.
#include <sqlite3.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>

#include "tests/fault/store/fault_journal.h"

using namespace bp;
using namespace bp::storage;
using namespace bp::storage::test;

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
  if (std::strstr(name, "journal.db") == nullptr) return rc;  // the search index is no journal
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

}  // namespace

TEST_CASE("journal file: a failed fsync ends all commits, and what was acknowledged stays") {
  Folder f;
  uint64_t acknowledged = 0;
  {
    FailingDisk disk;
    {
      auto journal = open_ok(f.db());
      for (uint64_t n = 1; n <= 10; ++n) {
        REQUIRE(commit(*journal, numbered(n, 3000)).ok());
        acknowledged = n;
      }
      SECTION("of the log, in a commit") {}
      SECTION("of the file, in a checkpoint") { g_only_main = true; }
      g_fail_sync = true;
      Status failed;
      for (uint64_t n = acknowledged + 1; n < 200 && failed.ok(); ++n) {
        failed = commit(*journal, numbered(n, 3000));
        if (failed.ok()) acknowledged = n;
      }
      REQUIRE(!failed.ok());
      CHECK(failed.error().code == ErrorCode::kJournal);
      CHECK(g_failed == 1);
      g_fail_sync = false;  // the disk is well again: too late
      CHECK(!commit(*journal, numbered(acknowledged + 1)).ok());
      CHECK(g_failed == 1);
    }
  }
  auto journal = open_ok(f.db());
  CHECK(journal->recover()->last_commit >= acknowledged);
  CHECK(journal->check({})->empty());
}
