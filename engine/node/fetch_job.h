// FetchJob: brings a list of objects into the cache and links them below WORK_DIR/files. Runs on
// threads of its own: one goes through the objects, parallel_ranges workers fetch 8 MiB parts of
// whatever is next. The URLs of its sources live in memory only.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bp/v1/node.pb.h"
#include "engine/base/result.h"
#include "engine/fetch/object_store.h"
#include "engine/node/cache_entry.h"
#include "engine/node/safe_tree.h"

namespace bp::node {

class FetchJob {
 public:
  static constexpr uint32_t kParallelDefault = 4, kParallelMax = 32;
  /// Tries of one part without real progress, with 200 ms doubling to 5 s between them.
  static constexpr int kTriesMax = 6;
  /// Checks the request (names, paths, sources) before anything happens. kInvalidArgument,
  /// kTooLarge.
  static Result<std::unique_ptr<FetchJob>> start(const v1::FetchObjects& wanted,
                                                 const std::string& work_dir,
                                                 const std::string& cache_dir);
  ~FetchJob();  // cancels and joins
  void cancel();
  /// Any thread.
  v1::FetchStatus status() const;
  bool running() const;
  /// All files are in place, at their sizes.
  bool files_present() const;

 private:
  struct Object;
  struct Part {
    std::shared_ptr<Object> object;
    uint64_t index;
  };
  FetchJob(const v1::FetchObjects& wanted, SafeTree tree, std::string cache_dir);
  Status open_sources(const v1::FetchObjects& wanted);
  void coordinate();
  Status begin_object(const v1::FetchObject& wanted);
  void queue_parts(const std::shared_ptr<Object>& object);
  void work();
  Status fetch_part(Object& object, uint64_t part);
  Status end_object(const std::shared_ptr<Object>& object);
  void fail(Error error);
  bool wait_ms(int64_t ms);  // false: cancelled

  const std::string fetch_key_, cache_dir_;
  const std::vector<v1::FetchObject> wanted_;
  const SafeTree tree_;
  const uint32_t parallel_;
  std::vector<std::unique_ptr<fetch::ObjectStore>> sources_;
  std::atomic<bool> cancelled_{false};
  std::atomic<uint64_t> bytes_done_{0}, bytes_from_cache_{0};
  std::atomic<uint32_t> objects_done_{0};
  uint64_t bytes_total_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Part> queue_;  // guarded by mutex_, like all below
  size_t busy_ = 0;         // objects begun and not ended
  bool all_queued_ = false, finished_ = false;
  std::optional<Error> error_;
  std::vector<std::thread> threads_;  // owner's thread only
};

}  // namespace bp::node
