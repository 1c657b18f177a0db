#include <atomic>
#include <cstring>

#include "runtime/comm/communicator.h"

namespace bp::rt {
namespace {

class SoloCommunicator final : public Communicator {
 public:
  explicit SoloCommunicator(Epoch epoch) : epoch_(epoch) {}
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 1; }
  Epoch epoch() const override { return epoch_; }
  Status all_reduce_i64(std::span<int64_t>, Deadline) override { return check(); }
  Status all_gather_v(std::span<const std::byte> mine, std::span<const size_t> counts,
                      std::span<std::byte> out, Deadline) override {
    if (counts.size() != 1 || counts[0] != mine.size() || out.size() != mine.size()) {
      return Error{ErrorCode::kInvalidArgument, "solo all_gather_v: counts, mine and out disagree", {}};
    }
    if (!mine.empty() && out.data() != mine.data()) std::memmove(out.data(), mine.data(), mine.size());
    return check();
  }
  Status broadcast(std::span<std::byte>, uint32_t root, Deadline) override {
    BP_CHECK(root == 0);
    return check();
  }
  Status send(std::span<const std::byte>, uint32_t, Deadline) override {
    BP_CHECK(!"send in a group of one");
    return {};
  }
  Status recv(std::span<std::byte>, uint32_t, Deadline) override {
    BP_CHECK(!"recv in a group of one");
    return {};
  }
  Status barrier(Deadline) override { return check(); }
  void abort() override { aborted_ = true; }
  std::string describe() const override { return "solo"; }

 private:
  Status check() const {
    if (!aborted_) return {};
    return Error{ErrorCode::kStaleEpoch, "group of epoch " + epoch_.to_string() + " was aborted", {}};
  }
  Epoch epoch_;
  std::atomic<bool> aborted_{false};
};

}  // namespace

std::unique_ptr<Communicator> make_solo_communicator(Epoch epoch) {
  return std::make_unique<SoloCommunicator>(epoch);
}

}  // namespace bp::rt
