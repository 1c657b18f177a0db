// Scheduler: continuous batching as a pure state machine. Events in (arrive, cancel, step done,
// group lost), plans of steps out. No clock, no I/O, no thread: replayable from a trace.
//
// First come, first served: older sequences go first in every step. Blocks are given out as
// sequences grow; when none is left the youngest sequence gives its own back and is prefilled again
// later, which does not change its tokens. Prompt chunks of one sequence may be under way together;
// of the steps that sample for it at most one.
//
// It owns the token history of every request and the KV block table. Up to `steps_outstanding`
// steps are under way; blocks freed by uncommitted steps stay reserved; a token is final when
// step_done records it.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"

namespace bp::rt {

struct SchedulerOptions {
  uint32_t kv_blocks = 0;
  uint32_t kv_block_tokens = 16;
  uint32_t max_context_tokens = 0;
  uint32_t max_batch_tokens = 512;  // per step: prompt chunks fill what decoding leaves
  uint32_t max_sequences = 64;      // per step
  uint32_t steps_outstanding = 2;   // at least the number of pipeline stages
  uint32_t max_waiting = 256;
};

struct SequenceRequest {
  uint64_t id = 0;  // unique; one per choice
  std::vector<uint32_t> prompt;
  uint32_t max_new_tokens = 16;
  v1::Sampling sampling;
  std::vector<uint32_t> stop_tokens;
};

/// What a finished step means for a sequence.
struct SequenceUpdate {
  uint64_t id = 0;
  v1::SampledToken token;
  bool finished = false;
  std::string finish_reason;  // "stop" (a stop token, not part of the text) or "length"
};

class Scheduler {
 public:
  static std::unique_ptr<Scheduler> make(const SchedulerOptions& options);
  virtual ~Scheduler() = default;
  /// kTooLarge: prompt + max_new_tokens beyond the context or the KV blocks; kUnavailable: queue
  /// full; kInvalidArgument: empty prompt, no new token wanted, or an id that is in use.
  virtual Status arrive(SequenceRequest request) = 0;
  /// Also for a sequence whose text is complete. Takes effect at the next step border: no update
  /// follows, its blocks are free once no step under way uses them. Unknown ids are ignored.
  virtual void cancel(uint64_t id) = 0;
  /// The next step to send, or nothing: all outstanding, or nothing to do. `step.number` is set.
  virtual std::optional<v1::Step> next_step() = 0;
  /// Steps must be done in order; kProtocol otherwise.
  virtual Result<std::vector<SequenceUpdate>> step_done(const v1::StepResult& result) = 0;
  /// The group is gone: uncommitted steps are forgotten; every live sequence is prefilled again
  /// from its history when next_step is called under the new group. Step numbers start at 1 again.
  virtual void group_lost() = 0;
  virtual uint64_t running() const = 0;
  virtual uint64_t waiting() const = 0;
  virtual uint32_t free_blocks() const = 0;
};

}  // namespace bp::rt
