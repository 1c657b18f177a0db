// ModelRunner: one rank's slice of a model. Executes steps; tokens do not depend on batch, chunking, TP or PP.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"
#include "engine/plan/shard_plan.h"
#include "runtime/comm/communicator.h"
#include "runtime/weights/weight_source.h"

namespace bp::rt {

struct StepProfile;

/// Memory given from outside (memfd segments of bp-node), so that it outlives the rank.
struct RunnerMemory {
  std::span<std::byte> weights;   // writable on the first load; see weights_key
  std::span<std::byte> kv;
};

struct RunnerOptions {
  plan::ShardPlan plan;
  uint32_t rank = 0;
  uint32_t kv_block_tokens = 16;
  uint32_t kv_blocks = 0;
  bool exact = false;             // FP32 activations
  uint32_t threads = 1;
};

/// The groups a rank belongs to. tp: ranks of its pipeline stage by tp_rank. pp: ranks with its tp_rank
/// by pp_rank.
struct RunnerComms {
  Communicator* tp = nullptr;
  Communicator* pp = nullptr;
};

/// Bytes of the weights segment that `rank` needs (header included), and of the KV segment.
Result<uint64_t> weights_segment_bytes(const WeightSource& source, const plan::ShardPlan& plan, uint32_t rank,
                                       bool exact);
/// KV elements are F16, in exact mode FP32.
uint64_t kv_segment_bytes(const plan::ShardPlan& plan, uint32_t rank, uint32_t block_tokens, uint32_t blocks,
                          bool exact);

/// What ModelRunner::numerics_class() will say on this machine, known before anything is loaded.
std::string numerics_class_here(bool exact);

class ModelRunner {
 public:
  /// Fills memory.weights from `source` unless its header says it already holds this very slice
  /// (`reused` tells). `progress(done, total)` in bytes. kCorruptData, kDoesNotFit (segment too small).
  static Result<std::unique_ptr<ModelRunner>> load(const WeightSource& source, const RunnerOptions& options,
                                                   RunnerMemory memory, RunnerComms comms,
                                                   const std::function<void(uint64_t, uint64_t)>& progress,
                                                   bool* reused);
  virtual ~ModelRunner() = default;
  /// Executes one step. Sampled tokens come back on tp_rank 0 of the last pipeline stage; elsewhere the
  /// result holds the number only. One thread. kInvalidArgument names the field (block out of range,
  /// token beyond the vocabulary, position that does not follow); errors of the communicators.
  virtual Result<v1::StepResult> execute(const v1::Step& step) = 0;
  /// The KV memory holds what an earlier process wrote there: no position is refused for not being written.
  virtual void trust_kv() = 0;
  /// Kernel set and instruction set ("avx512-vnni/fixed-order-q8-q16", ".../exact-f32"): ranks of one group must agree.
  virtual std::string numerics_class() const = 0;
  /// From now on adds what its steps cost to `profile` (null: no more). Not owned.
  virtual void measure(StepProfile* profile) {}
  /// Test door: logits of the last token of each sampled sequence of the last step, [sequences, vocab].
  virtual std::vector<float> TEST_last_logits() const = 0;
};

}  // namespace bp::rt
