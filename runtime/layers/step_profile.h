// StepProfile: where the time of a rank's steps goes, by operation, beside the bytes of weights it read and
// the arithmetic it did. Filled only when a runner was given one: measuring costs some microseconds a step.
#pragma once
#include <array>
#include <cstdint>

#include "engine/base/clock.h"
#include "runtime/tensor/packed.h"

namespace bp::rt {

enum class StepOp : uint8_t {
  kEmbed, kQkv, kRopeStore, kAttention, kAttentionOut, kGateUp, kDown, kExchange, kLmHead, kSample, kCount
};
inline constexpr const char* kStepOpNames[] = {"embed", "q k v", "rope, store", "attention", "attention out",
                                               "gate, up", "down", "exchange", "lm_head", "sample"};

struct StepProfile {
  struct Cost {
    int64_t ns = 0;
    uint64_t weight_bytes = 0;   // read once each time, whatever the number of tokens
    uint64_t operations = 0;     // two for each weight and token
  };
  std::array<Cost, size_t(StepOp::kCount)> costs;

  Cost& of(StepOp op) { return costs[size_t(op)]; }
};

/// Adds the time of its scope to an operation. A null profile costs a test.
class StepTimer {
 public:
  StepTimer(StepProfile* profile, StepOp op) : profile_(profile), op_(op) {
    if (profile_) start_ns_ = monotonic_ns();
  }
  ~StepTimer() {
    if (profile_) profile_->of(op_).ns += monotonic_ns() - start_ns_;
  }
  StepTimer(const StepTimer&) = delete;
  StepTimer& operator=(const StepTimer&) = delete;
  void read(const PackedMatrix& w, uint32_t tokens) {
    if (!profile_) return;
    profile_->of(op_).weight_bytes += w.size_bytes();
    profile_->of(op_).operations += uint64_t(2) * w.rows * w.cols * tokens;
  }

 private:
  StepProfile* profile_;
  StepOp op_;
  int64_t start_ns_ = 0;
};

}  // namespace bp::rt
