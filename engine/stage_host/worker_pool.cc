#include "engine/stage_host/worker_pool.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>

#include "engine/base/log.h"

namespace bp::stage_host {

WorkerPool::WorkerPool(unsigned base, unsigned most, std::function<void(SharedAttempt&)> run,
                       std::function<void()> wake)
    : base_(std::max(1u, base)), most_(std::max(base_, most)), run_(std::move(run)), wake_(std::move(wake)) {}

WorkerPool::~WorkerPool() {
  std::unique_lock lock(mutex_);
  stop_ = true;
  work_.notify_all();
  ended_.wait_for(lock, std::chrono::seconds(1), [&] { return threads_ == 0; });
}

void WorkerPool::add(const std::vector<SharedAttempt*>& attempts) {
  if (attempts.empty()) return;
  std::lock_guard lock(mutex_);
  queue_.insert(queue_.end(), attempts.begin(), attempts.end());
  // One thread is woken for a handful: the wake costs more than a tiny stage. look() brings more.
  const unsigned busy = threads_ - idle_ - std::min(waiting_, threads_ - idle_);
  if (idle_ > 0 && busy < base_) {
    work_.notify_one();
  } else if (busy < base_) {
    grow();
  }
}

void WorkerPool::grow() {
  if (threads_ >= most_) return;
  try {
    std::thread([this] { work(); }).detach();
    ++threads_;
  } catch (const std::system_error& e) {
    BP_LOG(warn, "thread.not_started", "threads={} why={}", threads_, e.what());
  }
}

bool WorkerPool::look() {
  std::lock_guard lock(mutex_);
  if (queue_.empty()) return !done_.empty();  // a thread went on without handing them over
  if (taken_ == taken_before_ || (queue_.size() > kDoneMany && threads_ - idle_ < base_)) {
    if (idle_ > 0) {
      work_.notify_one();
    } else {
      grow();
    }
  }
  taken_before_ = taken_;
  return true;
}

void WorkerPool::waits(int change) {
  std::lock_guard lock(mutex_);
  waiting_ += static_cast<unsigned>(change);
  if (change < 0 || queue_.empty()) return;
  if (idle_ > 0) {
    work_.notify_one();
  } else if (threads_ - std::min(waiting_, threads_) < base_) {
    grow();
  }
}

unsigned WorkerPool::threads() const {
  std::lock_guard lock(mutex_);
  return threads_;
}

unsigned WorkerPool::running() const {
  std::lock_guard lock(mutex_);
  return running_;
}

void WorkerPool::take_done(std::vector<SharedAttempt*>& into) {
  into.clear();
  std::lock_guard lock(mutex_);
  into.swap(done_);
}

void WorkerPool::work() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (queue_.empty()) {
      ++idle_;
      const bool any = work_.wait_for(lock, std::chrono::milliseconds(kIdleMs),
                                      [&] { return stop_ || !queue_.empty(); });
      --idle_;
      if (!any && threads_ > 1) break;
      continue;
    }
    SharedAttempt* attempt = queue_.front();
    queue_.pop_front();
    ++taken_;
    ++running_;
    lock.unlock();
    run_(*attempt);
    lock.lock();
    --running_;
    done_.push_back(attempt);
    if (!queue_.empty() && done_.size() % kDoneMany != 0) continue;
    lock.unlock();
    wake_();
    lock.lock();
  }
  --threads_;
  ended_.notify_all();
}

}  // namespace bp::stage_host
