// FetchManager: the fetches of this node by fetch_key. Thread-safe; returns at once except stop().
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bp/v1/node.pb.h"
#include "engine/base/result.h"
#include "engine/node/fetch_job.h"

namespace bp::node {

class FetchManager {
 public:
  static constexpr size_t kJobsMax = 16;
  FetchManager(std::string work_dir, std::string cache_dir);
  ~FetchManager();
  /// Starts the fetch, or answers with the state of the one that runs. One that failed, or whose
  /// files are not there any more, starts again and resumes. kInvalidArgument for a request that
  /// makes no sense.
  Result<v1::FetchStatus> request(const v1::FetchObjects& wanted);
  /// kNotFound when there is none: after a restart of the agent the stage asks with its URLs again.
  Result<v1::FetchStatus> query(const std::string& fetch_key) const;
  std::vector<v1::FetchStatus> all() const;
  /// Ends all fetches and waits for their threads (they poll for it every 200 ms).
  void stop();

 private:
  const std::string work_dir_, cache_dir_;
  mutable std::mutex mutex_;
  std::map<std::string, std::unique_ptr<FetchJob>> jobs_;  // guarded by mutex_
};

}  // namespace bp::node
