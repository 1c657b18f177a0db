#include "engine/node/fetch_manager.h"

namespace bp::node {

FetchManager::FetchManager(std::string work_dir, std::string cache_dir)
    : work_dir_(std::move(work_dir)), cache_dir_(std::move(cache_dir)) {}
FetchManager::~FetchManager() = default;

Result<v1::FetchStatus> FetchManager::request(const v1::FetchObjects& wanted) {
  std::lock_guard lock(mutex_);
  auto it = jobs_.find(wanted.fetch_key());
  if (it != jobs_.end()) {
    if (it->second->running()) return it->second->status();
    if (auto s = it->second->status(); s.done() && it->second->files_present()) return s;
    jobs_.erase(it);
  }
  if (jobs_.size() >= kJobsMax) {
    for (auto old = jobs_.begin(); old != jobs_.end();)
      old = old->second->running() ? std::next(old) : jobs_.erase(old);
  }
  if (jobs_.size() >= kJobsMax) {
    return Error{ErrorCode::kUnavailable,
                 "already " + std::to_string(kJobsMax) + " fetches are running",
                 {}};
  }
  BP_ASSIGN(auto job, FetchJob::start(wanted, work_dir_, cache_dir_));
  auto status = job->status();
  jobs_[wanted.fetch_key()] = std::move(job);
  return status;
}

Result<v1::FetchStatus> FetchManager::query(const std::string& fetch_key) const {
  std::lock_guard lock(mutex_);
  auto it = jobs_.find(fetch_key);
  if (it == jobs_.end()) {
    return Error{ErrorCode::kNotFound,
                 "no fetch \"" + fetch_key.substr(0, 200) + "\" since this agent started",
                 "Ask with FetchObjects: it resumes"};
  }
  return it->second->status();
}

std::vector<v1::FetchStatus> FetchManager::all() const {
  std::lock_guard lock(mutex_);
  std::vector<v1::FetchStatus> out;
  for (const auto& [key, job] : jobs_) out.push_back(job->status());
  return out;
}

void FetchManager::stop() {
  std::lock_guard lock(mutex_);
  for (auto& [key, job] : jobs_) job->cancel();
  jobs_.clear();
}

}  // namespace bp::node
