#include "tests/sim/crash_vfs.h"

#include <cstring>
#include <new>

namespace bp::sim {

int CrashVfs::inside = 0;

namespace {
struct Inside {
  Inside() { ++CrashVfs::inside; }
  ~Inside() { --CrashVfs::inside; }
};
}  // namespace

const char* name_of(DiskOp op) {
  static constexpr const char* kNames[] = {"write", "sync", "truncate", "delete", "create"};
  return kNames[static_cast<int>(op)];
}

// SQLite allocates it as raw memory; it is constructed in place by xOpen and destroyed by xClose.
struct CrashVfs::File {
  sqlite3_file base;
  CrashVfs* vfs;
  uint64_t life;
  std::string name;
  int lock;
  bool new_journal;  // the folder is synced with its first sync
  bool delete_on_close;
  bool persist_wal;
  std::shared_ptr<Shared> shm;
  uint32_t shm_readers, shm_writers;  // bits

  bool dead() const { return vfs->dead_ || life != vfs->life_; }
};

struct CrashVfs::Methods {
  static CrashVfs& self(sqlite3_vfs* v) { return *static_cast<CrashVfs*>(v->pAppData); }
  static File& file(sqlite3_file* f) { return *reinterpret_cast<File*>(f); }

  static int open(sqlite3_vfs* v, const char* name, sqlite3_file* f, int flags, int* out_flags) {
    Inside inside;
    CrashVfs& me = self(v);
    f->pMethods = nullptr;
    if (me.dead_) return SQLITE_IOERR;
    static uint64_t temporary = 0;
    const std::string path = name ? name : "temporary-" + std::to_string(++temporary);
    const bool is_new = !me.disk_.exists(path);
    if (is_new && !(flags & SQLITE_OPEN_CREATE)) return SQLITE_CANTOPEN;
    if (is_new) {
      if (const int rc = me.ask(DiskOp::kCreate, true); rc != SQLITE_OK) return SQLITE_CANTOPEN;
      me.disk_.create(path);
    }
    const bool journal =
        flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL);
    new (f) File{{&kFileMethods},
                 &me,
                 me.life_,
                 path,
                 SQLITE_LOCK_NONE,
                 is_new && journal,
                 bool(flags & SQLITE_OPEN_DELETEONCLOSE),
                 false,
                 nullptr,
                 0,
                 0};
    if (out_flags) *out_flags = flags;
    return SQLITE_OK;
  }

  static int close(sqlite3_file* p) {
    Inside inside;
    File& f = file(p);
    if (!f.dead()) {
      unlock(p, SQLITE_LOCK_NONE);
      if (f.delete_on_close) f.vfs->disk_.remove(f.name);
    }
    f.~File();
    return SQLITE_OK;
  }

  static int remove(sqlite3_vfs* v, const char* name, int sync_folder) {
    Inside inside;
    CrashVfs& me = self(v);
    if (me.dead_) return SQLITE_IOERR_DELETE;
    if (!me.disk_.exists(name)) return SQLITE_IOERR_DELETE_NOENT;
    if (me.ask(DiskOp::kDelete, false) != SQLITE_OK) return SQLITE_IOERR_DELETE;
    me.disk_.remove(name);
    if (sync_folder) me.disk_.sync_names();
    me.syncs_ += sync_folder != 0;
    return SQLITE_OK;
  }

  static int access(sqlite3_vfs* v, const char* name, int, int* out) {
    Inside inside;
    *out = self(v).disk_.exists(name) && !self(v).dead_;
    return SQLITE_OK;
  }
  static int full_path(sqlite3_vfs*, const char* name, int size, char* out) {
    if (int(std::strlen(name)) >= size) return SQLITE_CANTOPEN;
    std::strcpy(out, name);
    return SQLITE_OK;
  }
  static int randomness(sqlite3_vfs* v, int bytes, char* out) {
    for (int i = 0; i < bytes; ++i) out[i] = char(self(v).random_());
    return bytes;
  }
  static int sleep(sqlite3_vfs*, int us) { return us; }
  static int now(sqlite3_vfs*, sqlite3_int64* out) {
    *out = 212'000'000'000'000;
    return SQLITE_OK;
  }
  static int last_error(sqlite3_vfs*, int, char*) { return 0; }

  static int read(sqlite3_file* p, void* out, int bytes, sqlite3_int64 at) {
    Inside inside;
    File& f = file(p);
    if (f.dead()) return SQLITE_IOERR_READ;
    const int64_t n = f.vfs->disk_.read(f.name, at, static_cast<char*>(out), bytes);
    return n == bytes ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
  }
  static int write(sqlite3_file* p, const void* data, int bytes, sqlite3_int64 at) {
    Inside inside;
    File& f = file(p);
    if (f.dead()) return SQLITE_IOERR_WRITE;
    const int rc = f.vfs->ask(DiskOp::kWrite, at + bytes > f.vfs->disk_.size(f.name));
    if (rc == SQLITE_OK) f.vfs->disk_.write(f.name, at, static_cast<const char*>(data), bytes);
    return rc == SQLITE_IOERR ? SQLITE_IOERR_WRITE : rc;
  }
  static int truncate(sqlite3_file* p, sqlite3_int64 size) {
    Inside inside;
    File& f = file(p);
    if (f.dead()) return SQLITE_IOERR_TRUNCATE;
    const int rc = f.vfs->ask(DiskOp::kTruncate, size > f.vfs->disk_.size(f.name));
    if (rc == SQLITE_OK) f.vfs->disk_.truncate(f.name, size);
    return rc == SQLITE_IOERR ? SQLITE_IOERR_TRUNCATE : rc;
  }
  static int sync(sqlite3_file* p, int) {
    Inside inside;
    File& f = file(p);
    if (f.dead()) return SQLITE_IOERR_FSYNC;
    if (f.vfs->ask(DiskOp::kSync, false) != SQLITE_OK) return SQLITE_IOERR_FSYNC;
    f.vfs->disk_.sync(f.name);
    ++f.vfs->syncs_;
    if (f.new_journal) f.vfs->disk_.sync_names();
    f.new_journal = false;
    return SQLITE_OK;
  }
  static int size(sqlite3_file* p, sqlite3_int64* out) {
    Inside inside;
    File& f = file(p);
    if (f.dead()) return SQLITE_IOERR_FSTAT;
    *out = f.vfs->disk_.size(f.name);
    return SQLITE_OK;
  }

  static int lock(sqlite3_file* p, int level) {
    Inside inside;
    File& f = file(p);
    if (f.dead()) return SQLITE_IOERR_LOCK;
    Locks& l = f.vfs->locks_[f.name];
    if (f.lock >= level) return SQLITE_OK;
    if (level == SQLITE_LOCK_SHARED) {
      if (l.pending || l.exclusive) return SQLITE_BUSY;
      ++l.shared;
    } else if (level == SQLITE_LOCK_RESERVED) {
      if (l.reserved || l.exclusive) return SQLITE_BUSY;
      l.reserved = true;
    } else {
      if (l.exclusive || (l.pending && f.lock < SQLITE_LOCK_PENDING)) return SQLITE_BUSY;
      if (l.reserved && f.lock < SQLITE_LOCK_RESERVED) return SQLITE_BUSY;
      l.pending = true;
      f.lock = SQLITE_LOCK_PENDING;
      if (level == SQLITE_LOCK_PENDING) return SQLITE_OK;
      if (l.shared > 1) return SQLITE_BUSY;
      l.exclusive = true;
    }
    f.lock = level;
    return SQLITE_OK;
  }
  static int unlock(sqlite3_file* p, int level) {
    Inside inside;
    File& f = file(p);
    if (f.dead() || f.lock <= level) return SQLITE_OK;
    Locks& l = f.vfs->locks_[f.name];
    if (f.lock >= SQLITE_LOCK_RESERVED) l.reserved = l.pending = l.exclusive = false;
    if (level == SQLITE_LOCK_NONE) --l.shared;
    f.lock = level;
    return SQLITE_OK;
  }
  static int reserved(sqlite3_file* p, int* out) {
    Inside inside;
    const Locks& l = file(p).vfs->locks_[file(p).name];
    *out = l.reserved || l.pending || l.exclusive;
    return SQLITE_OK;
  }

  static int control(sqlite3_file* p, int op, void* arg) {
    if (op != SQLITE_FCNTL_PERSIST_WAL) return SQLITE_NOTFOUND;
    int& value = *static_cast<int*>(arg);
    if (value >= 0) file(p).persist_wal = value != 0;
    value = file(p).persist_wal;
    return SQLITE_OK;
  }
  static int sector(sqlite3_file*) { return 4096; }
  static int characteristics(sqlite3_file*) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

  static int shm_map(sqlite3_file* p, int region, int bytes, int extend, void volatile** out) {
    Inside inside;
    File& f = file(p);
    *out = nullptr;
    if (f.dead()) return SQLITE_IOERR_SHMMAP;
    if (!f.shm) {
      auto& shm = f.vfs->shared_[f.name];
      if (!shm) shm = std::make_shared<Shared>();
      ++shm->users;
      f.shm = shm;
    }
    auto& regions = f.shm->regions;
    if (size_t(region) >= regions.size() && !extend) return SQLITE_OK;
    while (size_t(region) >= regions.size()) {
      regions.push_back(std::make_unique<char[]>(size_t(bytes)));
      std::memset(regions.back().get(), 0, size_t(bytes));
    }
    *out = regions[size_t(region)].get();
    return SQLITE_OK;
  }
  static int shm_lock(sqlite3_file* p, int first, int count, int flags) {
    File& f = file(p);
    if (f.dead() || !f.shm) return SQLITE_IOERR_SHMLOCK;
    const uint32_t mask = ((1u << count) - 1) << first;
    if (flags & SQLITE_SHM_UNLOCK) {
      for (int i = first; i < first + count; ++i) {
        if (f.shm_readers >> i & 1) --f.shm->slots[i].readers;
        if (f.shm_writers >> i & 1) f.shm->slots[i].writer = false;
      }
      f.shm_readers &= ~mask;
      f.shm_writers &= ~mask;
      return SQLITE_OK;
    }
    const bool exclusive = flags & SQLITE_SHM_EXCLUSIVE;
    for (int i = first; i < first + count; ++i) {
      const auto& s = f.shm->slots[i];
      const int others = s.readers - int(f.shm_readers >> i & 1);
      if ((s.writer && !(f.shm_writers >> i & 1)) || (exclusive && others > 0)) return SQLITE_BUSY;
    }
    for (int i = first; i < first + count; ++i) {
      if (exclusive) {
        f.shm->slots[i].writer = true;
      } else if (!(f.shm_readers >> i & 1)) {
        ++f.shm->slots[i].readers;
      }
    }
    (exclusive ? f.shm_writers : f.shm_readers) |= mask;
    return SQLITE_OK;
  }
  static void shm_barrier(sqlite3_file*) {}
  static int shm_unmap(sqlite3_file* p, int) {
    File& f = file(p);
    if (f.dead() || !f.shm) return SQLITE_OK;
    for (int i = 0; i < SQLITE_SHM_NLOCK; ++i) shm_lock(p, i, 1, SQLITE_SHM_UNLOCK);
    // The first one to come again starts with fresh memory, as with a new -shm file.
    if (--f.shm->users == 0) f.vfs->shared_.erase(f.name);
    f.shm.reset();
    return SQLITE_OK;
  }

  static constexpr sqlite3_io_methods kFileMethods = {2,
                                                      close,
                                                      read,
                                                      write,
                                                      truncate,
                                                      sync,
                                                      size,
                                                      lock,
                                                      unlock,
                                                      reserved,
                                                      control,
                                                      sector,
                                                      characteristics,
                                                      shm_map,
                                                      shm_lock,
                                                      shm_barrier,
                                                      shm_unmap,
                                                      nullptr,
                                                      nullptr};
};

CrashVfs::CrashVfs(std::string name, uint64_t seed) : name_(std::move(name)), random_(seed) {
  vfs_.iVersion = 2;
  vfs_.szOsFile = sizeof(File);
  vfs_.mxPathname = 512;
  vfs_.zName = name_.c_str();
  vfs_.pAppData = this;
  vfs_.xOpen = Methods::open;
  vfs_.xDelete = Methods::remove;
  vfs_.xAccess = Methods::access;
  vfs_.xFullPathname = Methods::full_path;
  vfs_.xRandomness = Methods::randomness;
  vfs_.xSleep = Methods::sleep;
  vfs_.xCurrentTimeInt64 = Methods::now;
  vfs_.xGetLastError = Methods::last_error;
  sqlite3_vfs_register(&vfs_, 0);
}

CrashVfs::~CrashVfs() { sqlite3_vfs_unregister(&vfs_); }

int CrashVfs::ask(DiskOp op, bool grows) {
  ++operations_;
  const Verdict verdict = before ? before(operations_, op) : Verdict::kGo;
  if (dead_ || verdict == Verdict::kError) return SQLITE_IOERR;
  if (verdict == Verdict::kFull && grows) return SQLITE_FULL;
  return SQLITE_OK;
}

void CrashVfs::die(Tail tail, std::mt19937_64& random) {
  disk_ = disk_.after_crash(tail, random);
  dead_ = true;
}

void CrashVfs::revive() {
  dead_ = false;
  ++life_;
  locks_.clear();
  shared_.clear();
}

}  // namespace bp::sim
