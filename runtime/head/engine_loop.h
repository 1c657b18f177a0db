// EngineLoop: the thread between scheduler and ranks. Takes sequences in, sends steps, hands tokens
// out; keeps sequences while the ranks are gone and prefills them again; proves with canary tokens
// that all ranks answer. All public members are for any thread. Of one round of the loop the next step
// goes out first, and only then what the last one gave: text is made while the ranks compute.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/head/step_backend.h"
#include "runtime/sched/scheduler.h"

namespace bp::rt {

struct EngineOptions {
  SchedulerOptions scheduler;
  std::vector<uint32_t> canary_prompt;  // at least one token
  int64_t canary_every_ms = 3'000;      // when nothing else proves the ranks
  int64_t canary_fresh_ms = 10'000;     // a token this young makes the head ready
  int64_t group_wait_ms = 30'000;       // how long sequences wait for a new group
  /// Runs what hands out the events of one step, in order; unset: at once, on the engine thread.
  std::function<void(std::function<void()>)> deliver;
  /// Takes the scheduler's trace; see make_recorded_scheduler. Unset: none is made.
  std::function<bool(std::string_view)> trace;
};

/// One token of a sequence, or its end. Exactly one event per sequence has `last`, unless it is
/// cancelled.
struct SequenceEvent {
  const v1::SampledToken* token = nullptr;  // null: ended without one
  bool last = false;
  std::string finish_reason;     // "stop", "length", "error"
  const Error* error = nullptr;  // with "error"
  int64_t retry_after_ms = 0;    // with kOverloaded
};
/// Called where EngineOptions::deliver runs it, one call at a time; must not block. false: the sequence
/// is not wanted any more, and no event follows.
using SequenceSink = std::function<bool(const SequenceEvent&)>;

struct EngineStats {
  std::atomic<uint64_t> prompt_tokens{0}, generated_tokens{0}, steps{0}, step_us{0};
  std::atomic<uint64_t> sequences_done{0}, sequences_cancelled{0}, sequences_failed{0},
      groups_lost{0};
  std::atomic<uint64_t> running{0}, waiting{0}, waiting_tokens{0}, free_blocks{0};
  std::atomic<uint64_t> preemptions{0}, shared_tokens{0}, copied_blocks{0}, refused{0}, expired{0};
  std::atomic<double> tokens_per_s{0};
};

class EngineLoop {
 public:
  static std::unique_ptr<EngineLoop> start(EngineOptions options,
                                           std::unique_ptr<StepBackend> backend);
  virtual ~EngineLoop() = default;  // stops the thread, tells the ranks to end
  struct Submission {
    SequenceRequest request;  // `id` is given by submit
    SequenceSink sink;
  };
  /// All of them or none; their ids. `same_prompt_as` counts within `sequences`, from 1. kUnavailable:
  /// not serving or draining. A full queue is told by the first event, with kOverloaded.
  virtual Result<std::vector<uint64_t>> submit(std::vector<Submission> sequences) = 0;
  /// Once the engine thread has seen it no event is made; one may be under way.
  virtual void cancel(std::vector<uint64_t> ids) = 0;

  struct Canary {
    int64_t first_token_ms = 0;
    uint32_t token = 0;
  };
  using CanaryDone = std::function<void(Result<Canary>)>;
  /// One token through all ranks; kUnavailable when they do not serve. `done` runs on the engine
  /// thread.
  virtual void canary(CanaryDone done) = 0;
  virtual void expect_group(Epoch epoch, std::function<void(Status)> done) = 0;
  /// Refuses new sequences; `done` gets the number still live when all ended or the time was up.
  virtual void drain(int64_t deadline_ms, std::function<void(uint64_t)> done) = 0;

  virtual bool ready() const = 0;  // serving, not draining, and the last token is young
  virtual bool serving() const = 0;
  virtual bool draining() const = 0;
  virtual int64_t last_token_age_ms() const = 0;  // -1: none yet
  virtual void fill_status(v1::HeadStatus* status) const = 0;
  virtual const EngineStats& stats() const = 0;
};

}  // namespace bp::rt
