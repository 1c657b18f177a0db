// Scheduler: continuous batching as a pure state machine. Events in (arrive, cancel, expire, step done,
// group lost), plans of steps out. No clock (every event brings its time), no I/O, no thread: the same
// events give the same steps, so a trace of production replays bit for bit (trace.h).
//
// Order: what is rebuilt after a loss (newest first), who has lost patience, then by priority, then the
// tenant that has had least, then first come. Decoding goes first in every step and prompt chunks fill
// the rest. Full KV blocks are found again by their tokens and shared; choices of one prompt share it
// whole, the last block copied on write. When no block is left the last in the order gives its own
// back and is computed again later, which does not change its tokens.
//
// As many steps are under way as the pipeline has stages, and the sequences are dealt over them. Blocks
// that an uncommitted step uses or copies stay reserved, so that it can be done again; a token is final
// when step_done records it.
#pragma once
#include <cstdint>
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
  uint32_t max_batch_tokens = 512;    // of a step
  uint32_t mixed_batch_tokens = 256;  // of a step while somebody decodes: bounds the gap between tokens
  uint32_t max_sequences = 64;        // of a step
  uint32_t stages = 1;                // of the pipeline: as many steps are under way
  uint32_t step_overhead_tokens = 8;  // tokens that cost a stage as much as a step does by itself
  uint32_t attention_parity_tokens = 0;  // context at which attention costs as much as the rest; 0: never
  uint32_t max_waiting = 256;            // sequences
  uint64_t max_waiting_tokens = 0;       // expected work of those that wait; 0: four times the KV cache
  int64_t patience_ns = 30'000'000'000;  // who waits longer goes before all priorities
  bool prefix_sharing = true;
};

/// Of what proves the ranks: it goes first and is not counted by the queue. Nobody else may use it.
inline constexpr int32_t kProbePriority = INT32_MIN;

struct SequenceRequest {
  uint64_t id = 0;  // unique; one per choice
  std::vector<uint32_t> prompt;
  uint32_t max_new_tokens = 16;
  v1::Sampling sampling;
  std::vector<uint32_t> stop_tokens;
  int32_t priority = 0;         // lower goes first
  std::string tenant;           // who shares fairly with others
  int64_t deadline_ns = 0;      // 0: none
  uint64_t same_prompt_as = 0;  // id of an earlier choice of the same request; 0: none
};

/// What a finished step means for a sequence.
struct SequenceUpdate {
  uint64_t id = 0;
  v1::SampledToken token;
  bool finished = false;
  std::string finish_reason;  // "stop" (a stop token, not part of the text) or "length"
};

struct SchedulerCounters {
  uint64_t preemptions = 0;
  uint64_t shared_tokens = 0;    // of prompts, found in the cache instead of computed
  uint64_t prompt_tokens = 0;    // computed, histories that are built again included
  uint64_t copied_blocks = 0;
  uint64_t refused = 0;
  uint64_t expired = 0;
};

class Scheduler {
 public:
  static std::unique_ptr<Scheduler> make(const SchedulerOptions& options);
  virtual ~Scheduler() = default;
  /// All of them or none. kTooLarge: prompt + max_new_tokens beyond the context or the KV blocks;
  /// kOverloaded: the queue is full, see retry_after_ms; kInvalidArgument: empty prompt, no new token
  /// wanted, or an id that is in use.
  virtual Status arrive(std::vector<SequenceRequest> requests, int64_t now_ns) = 0;
  /// Also for a sequence whose text is complete. Takes effect at the next step border: no update
  /// follows, its blocks are free once no step under way uses them. Unknown ids are ignored.
  virtual void cancel(uint64_t id) = 0;
  /// Ends the sequences whose deadline has passed; their ids.
  virtual std::vector<uint64_t> expire(int64_t now_ns) = 0;
  /// The next step to send, or nothing: all outstanding, or nothing to do. `step.number` is set.
  virtual std::optional<v1::Step> next_step(int64_t now_ns) = 0;
  /// Steps must be done in order; kProtocol otherwise.
  virtual Result<std::vector<SequenceUpdate>> step_done(const v1::StepResult& result,
                                                        int64_t now_ns) = 0;
  /// The group and its KV cache are gone: uncommitted steps are forgotten, every live sequence is
  /// computed again from its history, and step numbers start at 1 again. (A group that kept the cache
  /// does the uncommitted steps again by itself; nothing needs to be said here.)
  virtual void group_lost() = 0;

  /// How long what was refused last should wait: from the tokens too many and the measured rate.
  virtual int64_t retry_after_ms() const = 0;
  virtual uint64_t running() const = 0;
  virtual uint64_t waiting() const = 0;
  virtual uint64_t waiting_tokens() const = 0;
  virtual double tokens_per_s() const = 0;      // measured over some seconds of work; 0: not yet
  virtual uint32_t free_blocks() const = 0;     // held by no sequence; they may still be found again
  virtual const SchedulerCounters& counters() const = 0;
};

}  // namespace bp::rt
