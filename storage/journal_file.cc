#include "storage/journal_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "engine/base/fd.h"
#include "storage/journal_schema.h"

namespace bp::storage {
namespace {

// The log's frames have 24 bytes of header each, the log itself 32.
Status grow_wal(const SqliteJournalOptions& o) {
  const std::string wal = o.path + "-wal";
  Fd fd(::open(wal.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct stat st {};
  if (!fd || ::fstat(fd.get(), &st) != 0) return errno_error("open " + wal, errno);
  const int64_t wanted = 32 + int64_t(o.wal_pages) * (o.page_bytes + 24);
  const std::string zeroes(1 << 16, '\0');
  for (int64_t at = st.st_size; at < wanted;) {
    const ssize_t n = ::pwrite(fd.get(), zeroes.data(),
                               size_t(std::min<int64_t>(int64_t(zeroes.size()), wanted - at)), at);
    if (n <= 0) return errno_error("grow " + wal, n < 0 ? errno : ENOSPC);
    at += n;
  }
  if (::fsync(fd.get()) != 0) return errno_error("fsync " + wal, errno);
  return {};
}

Status create_private(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return errno_error("open journal " + path, errno);
  return {};
}

// A journal that was copied or restored lies in another file than the one it noted down: from now
// on its epochs belong to a new incarnation.
Status note_incarnation(Database& db, const SqliteJournalOptions& o) {
  std::string file = "vfs";
  if (o.vfs.empty()) {
    struct stat st {};
    if (::stat(o.path.c_str(), &st) != 0) return errno_error("stat " + o.path, errno);
    file = std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino);
  }
  BP_ASSIGN(std::string noted, fact(db, "file_identity"));
  if (noted == file) return {};
  BP_ASSIGN(std::string before, fact(db, "incarnation"));
  uint64_t next = 1;
  if (!before.empty()) {
    BP_ASSIGN(uint64_t known, read_number(before, "its incarnation"));
    next = known + 1;
  }
  next = std::max(next, o.least_incarnation);
  BP_TRY(db.exec("BEGIN IMMEDIATE"));
  Status done = put_fact(db, "file_identity", file);
  if (done.ok()) done = put_fact(db, "incarnation", std::to_string(next));
  if (!done.ok()) return done;
  return db.exec("COMMIT");
}

}  // namespace

std::string search_path_of(const SqliteJournalOptions& o) {
  if (!o.search_path.empty()) return o.search_path;
  const size_t slash = o.path.rfind('/');
  const size_t name = slash == std::string::npos ? 0 : slash + 1;
  // Two journals in one folder do not share an index.
  return o.path.substr(name) == "journal.db" ? o.path.substr(0, name) + "search.db"
                                             : o.path + ".search";
}

Status sync_folder_of(const std::string& path) {
  const std::string folder =
      path.find('/') == std::string::npos ? "." : path.substr(0, path.rfind('/') + 1);
  Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return errno_error("fsync " + folder, errno);
  return {};
}

Status prepare_journal_file(const SqliteJournalOptions& o) {
  if (o.vfs.empty()) BP_TRY(create_private(o.path));
  {
    const int create = o.vfs.empty() ? 0 : SQLITE_OPEN_CREATE;
    BP_ASSIGN(Database db, Database::open(o.path, SQLITE_OPEN_READWRITE | create, o.vfs));
    BP_TRY(db.exec("PRAGMA page_size = " + std::to_string(o.page_bytes)));
    BP_ASSIGN(std::string mode, db.text("PRAGMA journal_mode = WAL"));
    if (mode != "wal") {
      return Error{ErrorCode::kJournal,
                   o.path + ": its file system does not support shared memory (" + mode + ")",
                   "Put the state folder on a local disk"};
    }
    BP_TRY(db.exec("PRAGMA synchronous = FULL"));
    BP_TRY(prepare_schema(db, o.path));
    BP_TRY(note_incarnation(db, o));
  }
  if (!o.vfs.empty()) return {};
  BP_TRY(grow_wal(o));
  return sync_folder_of(o.path);
}

Result<Database> open_journal_for_writing(const SqliteJournalOptions& o) {
  BP_ASSIGN(Database db, Database::open(o.path, SQLITE_OPEN_READWRITE, o.vfs));
  // A log that a long reader made grow is cut back to this when it starts over.
  const int64_t wal_limit = 16 * (32 + int64_t(o.wal_pages) * (o.page_bytes + 24));
  for (const std::string& pragma : {std::string("synchronous = FULL"), std::string("mmap_size = 0"),
                                    std::string("wal_autocheckpoint = 0"),
                                    "journal_size_limit = " + std::to_string(wal_limit)}) {
    BP_TRY(db.exec("PRAGMA " + pragma));
  }
  int keep = 1;  // the grown log stays when the last connection closes
  sqlite3_file_control(db.get(), "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
  return db;
}

}  // namespace bp::storage
