// SwitchCommunicator: one communicator for the life of a rank's model, over the group of the present
// generation. use() gives it a group, drop() takes it away; without one every call fails with kStaleEpoch.
// Calls, use() and drop() on the stream's thread; abort() on any.
#pragma once
#include <memory>
#include <mutex>

#include "runtime/comm/communicator.h"

namespace bp::rt {

class SwitchCommunicator final : public Communicator {
 public:
  SwitchCommunicator(uint32_t rank, uint32_t size) : rank_(rank), size_(size) {}

  /// `group` must be of the same rank and size.
  void use(std::unique_ptr<Communicator> group);
  void drop();

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }
  Epoch epoch() const override { return group_ ? group_->epoch() : Epoch{}; }
  Status all_reduce_i64(std::span<int64_t> data, Deadline deadline) override {
    return group_ ? group_->all_reduce_i64(data, deadline) : none();
  }
  Status all_gather_v(std::span<const std::byte> mine, std::span<const size_t> counts, std::span<std::byte> out,
                      Deadline deadline) override {
    return group_ ? group_->all_gather_v(mine, counts, out, deadline) : none();
  }
  Status broadcast(std::span<std::byte> data, uint32_t root, Deadline deadline) override {
    return group_ ? group_->broadcast(data, root, deadline) : none();
  }
  Status send(std::span<const std::byte> data, uint32_t to, Deadline deadline) override {
    return group_ ? group_->send(data, to, deadline) : none();
  }
  Status recv(std::span<std::byte> data, uint32_t from, Deadline deadline) override {
    return group_ ? group_->recv(data, from, deadline) : none();
  }
  Status barrier(Deadline deadline) override { return group_ ? group_->barrier(deadline) : none(); }
  void abort() override;
  std::string describe() const override { return group_ ? group_->describe() : "no group"; }

 private:
  Status none() const;
  const uint32_t rank_, size_;
  std::mutex mutex_;                     // group_ is replaced, and aborted from outside, under it
  std::unique_ptr<Communicator> group_;
};

}  // namespace bp::rt
