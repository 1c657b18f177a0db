// CrashVfs: SQLite on a Disk in memory. Counts every write, sync, truncation and deletion, asks a
// hook before each, and can fail them or die: after a death every call on it fails, as if the
// process were gone, until revive() puts in the disk as a crash left it.
//
// All shared memory and locks are forgotten with the death. Random bytes, and so the salts of the
// write-ahead log, come from a seed. Thread: one.
#pragma once
#include <sqlite3.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/sim/disk.h"

namespace bp::sim {

enum class DiskOp { kWrite, kSync, kTruncate, kDelete, kCreate };
inline constexpr int kDiskOps = 5;
const char* name_of(DiskOp op);

enum class Verdict {
  kGo,
  kError,  // EIO: nothing of it is done; a failed sync leaves the writes unsynced for ever
  kFull,   // ENOSPC, for writes and truncations that grow; the rest goes on
};

class CrashVfs {
 public:
  /// Registers itself with SQLite under `name`; one per name at a time.
  CrashVfs(std::string name, uint64_t seed);
  ~CrashVfs();
  CrashVfs(const CrashVfs&) = delete;

  const std::string& name() const { return name_; }
  Disk& disk() { return disk_; }
  uint64_t operations() const { return operations_; }
  uint64_t syncs() const { return syncs_; }
  bool dead() const { return dead_; }

  /// Above 0 while SQLite is in here: nothing may throw through it.
  static int inside;

  /// Asked before each operation, with its number from 1. May call die(), and may fork.
  std::function<Verdict(uint64_t number, DiskOp op)> before;

  /// The disk is from now on what a crash leaves; everything fails until revive().
  void die(Tail tail, std::mt19937_64& random);
  /// A new life: connections of the former one stay dead.
  void revive();

 private:
  struct File;
  struct Methods;
  struct Locks {
    int shared = 0;
    bool reserved = false, pending = false, exclusive = false;
  };
  struct Shared {  // what -shm would be
    std::vector<std::unique_ptr<char[]>> regions;
    struct Slot {
      int readers = 0;
      bool writer = false;
    } slots[SQLITE_SHM_NLOCK];
    int users = 0;
  };

  int ask(DiskOp op, bool grows);

  std::string name_;
  sqlite3_vfs vfs_{};
  Disk disk_;
  std::mt19937_64 random_;
  uint64_t operations_ = 0, syncs_ = 0;
  uint64_t life_ = 1;
  bool dead_ = false;
  std::map<std::string, Locks> locks_;
  std::map<std::string, std::shared_ptr<Shared>> shared_;
};

}  // namespace bp::sim
