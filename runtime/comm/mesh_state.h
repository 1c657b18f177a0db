// The inside of MeshCommunicator: messages over links, and how their progress is waited for. Private to mesh_*.cc.
#pragma once
#include <atomic>
#include <optional>

#include "runtime/comm/mesh_communicator.h"
#include "runtime/comm/mesh_message.h"

namespace bp::rt {

class MeshCommunicator final : public Communicator {
 public:
  MeshCommunicator(MeshOptions o, Fd wake) : o_(std::move(o)), wake_(std::move(wake)) {
    sent_.resize(size());
    received_.resize(size());
    for (auto& link : o_.links) has_fds_ |= link && link->poll_fd() >= 0;
  }
  uint32_t rank() const override { return o_.rank; }
  uint32_t size() const override { return static_cast<uint32_t>(o_.links.size()); }
  Epoch epoch() const override { return o_.epoch; }
  std::string describe() const override {
    return o_.name + ": " + o_.kind + ", " + std::to_string(size()) + " ranks";
  }

  Status all_reduce_i64(std::span<int64_t> data, Deadline deadline) override;
  Status all_gather_v(std::span<const std::byte> mine, std::span<const size_t> counts,
                      std::span<std::byte> out, Deadline deadline) override;
  Status broadcast(std::span<std::byte> data, uint32_t root, Deadline deadline) override;
  Status send(std::span<const std::byte> data, uint32_t to, Deadline deadline) override;
  Status recv(std::span<std::byte> data, uint32_t from, Deadline deadline) override;
  Status barrier(Deadline deadline) override;
  void abort() override;

 private:
  void begin(Op op);
  void add_send(uint32_t to, std::span<const std::byte> data);
  void add_recv(uint32_t from, std::span<std::byte> data);
  Status run(Deadline deadline);
  Status transfer(Deadline deadline);
  Result<bool> progress();
  Result<bool> progress_out(Outgoing& t);
  Result<bool> progress_in(Incoming& t);
  bool finished() const;
  Status wait_for_progress(Deadline deadline, bool* progressed);
  Status poll_links(int64_t wait_ns);
  Status check_peers();
  Status reduce_shared(std::span<int64_t> data, Deadline deadline);
  Status wait_for_part(uint32_t peer, const std::byte** part, uint64_t* size_bytes, Deadline deadline);
  Status finish(Status status);
  std::string waited_for() const;
  Error context(Error error) const;

  MeshOptions o_;
  Fd wake_;                             // readable after abort()
  bool has_fds_ = false;
  std::atomic<bool> aborted_{false};
  std::optional<Error> dead_;           // the first error
  std::vector<uint32_t> sent_, received_;  // messages so far, by peer
  uint64_t operation_ = 0;              // operations so far
  Op op_ = Op::kBarrier;
  int64_t begin_ns_ = 0;                // of the operation
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  std::vector<int64_t> scratch_;
  uint64_t round_ = 0;                  // of the exchange
};

}  // namespace bp::rt
