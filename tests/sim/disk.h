// Disk: files in memory that lose what was not synced. A value: copying it copies no bytes (pages
// are shared until one side writes).
//
// What a crash may leave of the writes since a file's last sync follows what journalling file
// systems (ext4, xfs) promise: nothing. Each write may be there, be missing, or be cut at a
// 512-byte sector; later ones may be there without earlier ones; a synced byte never changes unless
// a later write covered it (SQLite's POWERSAFE_OVERWRITE). Names of files that were made or deleted
// are durable when their folder is synced, which SQLite's unix layer does with the first sync of a
// new journal or write-ahead log. Thread: one.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace bp::sim {

/// What is left of the unsynced writes.
enum class Tail {
  kKept,       // all: the process died, the machine lives
  kLost,       // none
  kTorn,       // the first ones, the last of them cut at a sector
  kReordered,  // any subset, each whole or cut at a sector
};
inline constexpr std::array kTails = {Tail::kKept, Tail::kLost, Tail::kTorn, Tail::kReordered};
const char* name_of(Tail tail);

class Disk {
 public:
  static constexpr int64_t kPageBytes = 4096, kSectorBytes = 512;

  bool exists(const std::string& name) const { return files_.count(name) > 0; }
  void create(const std::string& name);
  void remove(const std::string& name);
  int64_t size(const std::string& name) const;
  /// Bytes read; what lies beyond the end is zeroed in `out`.
  int64_t read(const std::string& name, int64_t at, char* out, int64_t bytes) const;
  void write(const std::string& name, int64_t at, const char* data, int64_t bytes);
  void truncate(const std::string& name, int64_t size);
  void sync(const std::string& name);
  void sync_names();
  /// True when a crash could lose something.
  bool unsynced() const;
  std::vector<std::string> names() const;
  std::string contents(const std::string& name) const;

  /// The disk as it is found after a crash now: everything on it is durable.
  Disk after_crash(Tail tail, std::mt19937_64& random) const;

 private:
  using Page = std::array<char, kPageBytes>;
  struct Content {
    std::vector<std::shared_ptr<Page>> pages;  // null: zeroes
    int64_t size = 0;
    void write(int64_t at, const char* data, int64_t bytes);
    void resize(int64_t to);
    int64_t read(int64_t at, char* out, int64_t bytes) const;
  };
  struct Change {
    int64_t at = 0;
    std::string bytes;
    bool truncate = false;  // to `at`
  };
  struct File {
    Content now, durable;
    std::vector<Change> unsynced;
  };

  static void apply(Content& content, const Change& change, int64_t bytes);
  static Content leave(const File& file, Tail tail, std::mt19937_64& random);

  std::map<std::string, std::shared_ptr<File>> files_;
  std::map<std::string, std::shared_ptr<File>> durable_names_;
  File& own(const std::string& name);
};

}  // namespace bp::sim
