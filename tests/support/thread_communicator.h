// Communicators between threads of one process, for tests: every call meets in one place under a mutex.
#pragma once
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/comm/communicator.h"

namespace bp::test {

class ThreadCommunicator final : public rt::Communicator {
 public:
  /// One communicator per rank of a group of `size`.
  static std::vector<std::unique_ptr<ThreadCommunicator>> make_group(uint32_t size) {
    auto shared = std::make_shared<Shared>();
    shared->size = size;
    std::vector<std::unique_ptr<ThreadCommunicator>> out;
    for (uint32_t r = 0; r < size; ++r) out.emplace_back(new ThreadCommunicator(shared, r));
    return out;
  }

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return shared_->size; }
  Epoch epoch() const override { return {1, 1}; }

  Status all_reduce_i64(std::span<int64_t> data, Deadline deadline) override {
    return meet(std::as_bytes(data), deadline, [&](const std::vector<Bytes>& parts) {
      std::vector<int64_t> sum(data.size(), 0), part(data.size());
      for (const Bytes& p : parts) {
        BP_CHECK(p.size() == data.size_bytes());
        std::memcpy(part.data(), p.data(), p.size());
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
      }
      std::memcpy(data.data(), sum.data(), data.size_bytes());
    });
  }
  Status all_gather_v(std::span<const std::byte> mine, std::span<const size_t> counts, std::span<std::byte> out,
                      Deadline deadline) override {
    return meet(mine, deadline, [&](const std::vector<Bytes>& parts) {
      size_t at = 0;
      for (size_t r = 0; r < parts.size(); ++r) {
        BP_CHECK(parts[r].size() == counts[r]);
        std::memcpy(out.data() + at, parts[r].data(), counts[r]);
        at += counts[r];
      }
      BP_CHECK(at == out.size());
    });
  }
  Status broadcast(std::span<std::byte> data, uint32_t root, Deadline deadline) override {
    return meet(data, deadline, [&](const std::vector<Bytes>& parts) {
      std::memcpy(data.data(), parts[root].data(), data.size());
    });
  }
  Status send(std::span<const std::byte> data, uint32_t to, Deadline) override {
    std::lock_guard lock(shared_->mutex);
    shared_->mail[{rank_, to}].emplace_back(data.begin(), data.end());
    shared_->changed.notify_all();
    return {};
  }
  Status recv(std::span<std::byte> data, uint32_t from, Deadline deadline) override {
    std::unique_lock lock(shared_->mutex);
    auto& box = shared_->mail[{from, rank_}];
    if (!wait(lock, deadline, [&] { return shared_->aborted || !box.empty(); })) return late();
    if (shared_->aborted) return stale();
    BP_CHECK(box.front().size() == data.size());
    std::memcpy(data.data(), box.front().data(), data.size());
    box.pop_front();
    return {};
  }
  Status barrier(Deadline deadline) override {
    return meet({}, deadline, [](const std::vector<Bytes>&) {});
  }
  void abort() override {
    std::lock_guard lock(shared_->mutex);
    shared_->aborted = true;
    shared_->changed.notify_all();
  }
  std::string describe() const override { return "threads"; }

 private:
  using Bytes = std::vector<std::byte>;
  struct Shared {
    uint32_t size = 0;
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Bytes> parts;
    uint32_t arrived = 0, leaving = 0;
    bool aborted = false;
    std::map<std::pair<uint32_t, uint32_t>, std::deque<Bytes>> mail;
  };
  ThreadCommunicator(std::shared_ptr<Shared> shared, uint32_t rank) : shared_(std::move(shared)), rank_(rank) {}

  static Status late() { return Error{ErrorCode::kDeadlineExceeded, "threads: a rank did not come", {}}; }
  static Status stale() { return Error{ErrorCode::kStaleEpoch, "threads: aborted", {}}; }
  template <class Pred>
  bool wait(std::unique_lock<std::mutex>& lock, Deadline deadline, Pred pred) {
    return shared_->changed.wait_for(lock, std::chrono::milliseconds(deadline.left_ms()), pred);
  }

  /// Everybody brings bytes, everybody sees all of them.
  template <class Fn>
  Status meet(std::span<const std::byte> mine, Deadline deadline, Fn&& use) {
    std::unique_lock lock(shared_->mutex);
    if (!wait(lock, deadline, [&] { return shared_->aborted || shared_->leaving == 0; })) return late();
    if (shared_->aborted) return stale();
    shared_->parts.resize(size());
    shared_->parts[rank_].assign(mine.begin(), mine.end());
    if (++shared_->arrived == size()) {
      shared_->leaving = size();
      shared_->changed.notify_all();
    } else if (!wait(lock, deadline, [&] { return shared_->aborted || shared_->leaving > 0; })) {
      return late();
    }
    if (shared_->aborted) return stale();
    use(shared_->parts);
    if (--shared_->leaving == 0) {
      shared_->arrived = 0;
      shared_->changed.notify_all();
    }
    return {};
  }

  std::shared_ptr<Shared> shared_;
  uint32_t rank_;
};

}  // namespace bp::test
