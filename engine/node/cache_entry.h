// CacheEntry: one object in the weight cache, CACHE_DIR/KEY/:
//   data        the whole, verified object (read-only)
//   data.part   the object while it comes, at its full size
//   ranges      which parts of data.part are whole: durable, written after the data was fsynced
//   lock        flock: one agent at a time fills an entry
// Any thread; mark() and finish() may be called by several at once.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/fd.h"
#include "engine/base/result.h"
#include "engine/fetch/object_store.h"

namespace bp::node {

/// Name of an object's entry: a digest of name, size, etag and md5, and of the store where there is
/// no md5.
std::string cache_key(const fetch::ObjectInfo& object, const std::string& store);
/// 16 bytes; empty when the text is no base64 MD5 (objects uploaded in parts have other digests).
std::string decode_md5(const std::string& base64);

class CacheEntry {
 public:
  static constexpr int64_t kLockStallMs = 60'000;
  /// Waits for the entry's lock as long as its holder makes progress (kUnavailable names the entry
  /// after kLockStallMs without any; kCancelled). Then looks at what is there.
  static Result<std::unique_ptr<CacheEntry>> open(const std::string& cache_dir,
                                                  const std::string& key, uint64_t size_bytes,
                                                  uint64_t part_bytes,
                                                  const std::function<bool()>& cancelled);
  bool complete() const { return complete_; }
  std::string data_path() const { return dir_ + "/data"; }
  /// Makes data.part at its full size, or takes the one that is there. kDiskFull names the file
  /// system.
  Status prepare();
  uint64_t part_count() const { return whole_.size(); }
  uint64_t part_offset(uint64_t part) const { return part * part_bytes_; }
  uint64_t part_size(uint64_t part) const;
  bool is_whole(uint64_t part) const;
  uint64_t whole_bytes() const;
  Status write(uint64_t offset, std::string_view bytes);
  /// The part is on disk whole: durable when it returns. True when it was the last one.
  Result<bool> mark(uint64_t part);
  /// Checks the MD5 (16 bytes; empty: none) and makes it `data`. kCorruptData: the digest differs,
  /// all parts were thrown away. kCancelled.
  Status finish(const std::string& md5, const std::function<bool()>& cancelled);

 private:
  CacheEntry(std::string dir, Fd lock, uint64_t size_bytes, uint64_t part_bytes);
  void read_ranges();
  Status save_ranges();
  Result<std::string> digest(const std::function<bool()>& cancelled) const;

  const std::string dir_;
  const Fd lock_;
  const uint64_t size_bytes_, part_bytes_;
  bool complete_ = false;
  Fd part_;
  mutable std::mutex mutex_;
  std::vector<bool> whole_;  // guarded by mutex_
};

}  // namespace bp::node
