#include "storage/sqlite_store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <condition_variable>
#include <deque>
#include <thread>

#include "engine/base/fd.h"
#include "storage/sqlite_reader.h"
#include "storage/sqlite_schema.h"
#include "storage/sqlite_writer.h"

namespace bp::storage {
namespace {

constexpr int kPageBytes = 4096;
constexpr size_t kGroupMax = 1024;  // batches in one transaction

// The log's frames have 24 bytes of header each, the log itself 32.
Status grow_wal(const std::string& path, int pages) {
  const std::string wal = path + "-wal";
  Fd fd(::open(wal.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  struct stat st {};
  if (!fd || ::fstat(fd.get(), &st) != 0) return errno_error("open " + wal, errno);
  const int64_t wanted = 32 + int64_t(pages) * (kPageBytes + 24);
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

// The names of new files are durable only when their folder is.
Status sync_folder(const std::string& path) {
  const std::string folder =
      path.find('/') == std::string::npos ? "." : path.substr(0, path.rfind('/') + 1);
  Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return errno_error("fsync " + folder, errno);
  return {};
}

Status create_private(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return errno_error("open journal " + path, errno);
  return {};
}

// A journal that was copied or restored lies in another file than the one it noted down: from now
// on its epochs belong to a new incarnation.
Status note_incarnation(Database& db, const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return errno_error("stat " + path, errno);
  const std::string file = std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino);
  BP_ASSIGN(std::string noted, db.text("SELECT value FROM meta WHERE key = 'file_identity'"));
  if (noted == file) return {};
  BP_ASSIGN(std::string before, db.text("SELECT value FROM meta WHERE key = 'incarnation'"));
  uint64_t next = 1;
  if (!before.empty()) {
    BP_ASSIGN(uint64_t known, read_number(before, "its incarnation"));
    next = known + 1;
  }
  BP_ASSIGN(Statement s,
            Statement::prepare(db.get(),
                               "INSERT INTO meta(key, value) VALUES('file_identity', ?), "
                               "('incarnation', ?) ON CONFLICT(key) DO UPDATE SET "
                               "value = excluded.value"));
  const std::string number = std::to_string(next);
  s.blob(file).blob(number);
  return s.run();
}

// Before the connections that stay: WAL mode, schema, incarnation; then the log is grown.
Status prepare_file(const SqliteOptions& o) {
  BP_TRY(create_private(o.path));
  {
    BP_ASSIGN(Database db, Database::open(o.path, SQLITE_OPEN_READWRITE));
    BP_TRY(db.exec("PRAGMA page_size = " + std::to_string(kPageBytes)));
    BP_ASSIGN(std::string mode, db.text("PRAGMA journal_mode = WAL"));
    if (mode != "wal") {
      return Error{ErrorCode::kJournal,
                   o.path + ": its file system does not support shared memory (" + mode + ")",
                   "Put the state folder on a local disk"};
    }
    BP_TRY(db.exec("PRAGMA synchronous = FULL"));
    BP_TRY(migrate(db, o.path, migrations()));
    BP_TRY(note_incarnation(db, o.path));
  }
  BP_TRY(grow_wal(o.path, o.wal_pages));
  return sync_folder(o.path);
}

Result<Database> open_writer(const SqliteOptions& o) {
  BP_ASSIGN(Database db, Database::open(o.path, SQLITE_OPEN_READWRITE));
  for (const std::string& pragma :
       {std::string("synchronous = FULL"), std::string("foreign_keys = ON"),
        std::string("mmap_size = 0"), std::string("wal_autocheckpoint = 0"),
        std::string("journal_size_limit = -1")}) {
    BP_TRY(db.exec("PRAGMA " + pragma));
  }
  int keep = 1;  // the grown log stays when the last connection closes
  sqlite3_file_control(db.get(), "main", SQLITE_FCNTL_PERSIST_WAL, &keep);
  return db;
}

}  // namespace

struct SqliteStore::WriterThread {
  struct Pending {
    Batch batch;
    std::function<void(Status)> done;
  };

  explicit WriterThread(SqliteWriter w) : writer(std::move(w)), thread([this] { run(); }) {}
  ~WriterThread() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_one();
    thread.join();
  }

  void push(Pending p) {
    {
      std::lock_guard lock(mutex);
      queue.push_back(std::move(p));
    }
    wake.notify_one();
  }

  void run() {
    std::optional<Error> broken;
    while (true) {
      std::vector<Pending> group = take();
      if (group.empty()) return;
      if (!broken) {
        std::vector<const Batch*> batches;
        for (const Pending& p : group) batches.push_back(&p.batch);
        if (Status ok = writer.write(batches); !ok) broken = std::move(ok).error();
      }
      for (Pending& p : group) p.done(broken ? Status(*broken) : Status());
      if (broken) continue;
      if (Status ok = writer.checkpoint_if_due(); !ok) broken = std::move(ok).error();
    }
  }

  // Empty: the end. Waits for work; an idle writer has nobody to wait for it.
  std::vector<Pending> take() {
    std::unique_lock lock(mutex);
    wake.wait(lock, [this] { return stopping || !queue.empty(); });  // untimed: its own queue
    std::vector<Pending> group;
    while (!queue.empty() && group.size() < kGroupMax) {
      group.push_back(std::move(queue.front()));
      queue.pop_front();
    }
    return group;
  }

  SqliteWriter writer;
  std::mutex mutex;  // guards queue, stopping
  std::condition_variable wake;
  std::deque<Pending> queue;
  bool stopping = false;
  std::thread thread;  // last: it uses all of the above
};

SqliteStore::SqliteStore() = default;
SqliteStore::~SqliteStore() {
  writer_.reset();
  reader_.reset();
}

Result<std::unique_ptr<SqliteStore>> SqliteStore::open(SqliteOptions options) {
  BP_TRY(prepare_file(options));
  std::unique_ptr<SqliteStore> store(new SqliteStore);
  BP_ASSIGN(Database db, open_writer(options));
  BP_ASSIGN(SqliteWriter writer, SqliteWriter::open(std::move(db), options.wal_pages));
  store->reader_ = std::make_unique<Reader>();
  BP_ASSIGN(store->reader_->db, Database::open(options.path, SQLITE_OPEN_READONLY));
  store->writer_ = std::make_unique<WriterThread>(std::move(writer));
  return store;
}

void SqliteStore::commit(Batch batch, std::function<void(Status)> done) {
  writer_->push({std::move(batch), std::move(done)});
}

}  // namespace bp::storage
