// The inside of Scheduler: scheduler.cc has what events do, step_plan.cc what goes into the next step.
#pragma once
#include <deque>
#include <map>
#include <unordered_map>

#include "runtime/sched/admission.h"
#include "runtime/sched/block_pool.h"
#include "runtime/sched/scheduler.h"
#include "runtime/sched/sequence.h"

namespace bp::rt {

class SchedulerState final : public Scheduler {
 public:
  explicit SchedulerState(const SchedulerOptions& options);
  Status arrive(std::vector<SequenceRequest> requests, int64_t now_ns) override;
  void cancel(uint64_t id) override;
  std::vector<uint64_t> expire(int64_t now_ns) override;
  std::optional<v1::Step> next_step(int64_t now_ns) override;
  Result<std::vector<SequenceUpdate>> step_done(const v1::StepResult& result,
                                                int64_t now_ns) override;
  void group_lost() override;
  int64_t retry_after_ms() const override { return admission_.retry_after_ms(); }
  uint64_t running() const override { return running_.size(); }
  uint64_t waiting() const override { return waiting_.size(); }
  uint64_t waiting_tokens() const override { return admission_.waiting_tokens(); }
  double tokens_per_s() const override { return admission_.tokens_per_s(); }
  uint32_t free_blocks() const override { return pool_.available(); }
  const SchedulerCounters& counters() const override { return counters_; }

 private:
  struct Draft;     // the step that is being made
  struct Shared {   // what of a history is in the cache
    std::vector<uint32_t> blocks;
    std::vector<uint64_t> contents;
    std::optional<uint32_t> copy_from;  // a block of which all but what comes last is wanted
    uint32_t tokens = 0;
  };
  using Sequences = std::map<uint64_t, Sequence*>;  // by arrival

  Status check(const SequenceRequest& request) const;
  Status check_queue(const std::vector<SequenceRequest>& requests);
  Status check_result(const v1::StepResult& result) const;
  SequenceUpdate commit(Sequence& s, const v1::SampledToken& token);
  void end(Sequence& s);
  void remove(Sequence& s);
  void release_blocks(Sequence& s);
  void queue(Sequence& s);
  void unqueue(Sequence& s);
  void compute_again(Sequence& s);

  Rank rank(const Sequence& s, int64_t now_ns, bool with_tenant) const;
  std::vector<Sequence*> in_order(int64_t now_ns, bool decoding) const;
  Sequence* first_waiting(int64_t now_ns, Rank* its_rank) const;
  bool leader_is_ahead(const Sequence& s) const;
  uint32_t blocks_for(uint64_t tokens) const;
  uint32_t promised_blocks() const;
  uint32_t places_per_step() const;
  uint32_t chunk_tokens() const;
  uint64_t work_of(uint32_t position, uint32_t tokens) const;
  uint32_t tokens_for(uint32_t position, uint64_t work) const;
  void add_prompts(Draft& draft);
  bool can_go_on(const Sequence& s) const;
  uint32_t blocks_to_admit(const Sequence& s, const Shared& shared) const;
  void make_room(int64_t now_ns);
  bool admit(Sequence& s, Draft& draft);
  Shared find_shared(const Sequence& s) const;
  void take_shared(Sequence& s, Shared shared, Draft& draft);
  bool preempt_for(const Sequence& s, int64_t now_ns, bool only_outranked);
  uint32_t reserve(Sequence& s, uint32_t tokens, int64_t now_ns);
  void add(Sequence& s, Draft& draft, uint32_t most);
  void fill_sampling(const Sequence& s, v1::Sampling* out) const;
  void publish(Sequence& s);

  SchedulerOptions options_;
  BlockPool pool_;
  Admission admission_;
  std::map<uint64_t, Sequence> sequences_;        // by arrival; nodes never move
  std::unordered_map<uint64_t, uint64_t> by_id_;  // live ones: id -> arrival
  Sequences waiting_, running_;
  std::deque<SentStep> sent_;
  uint64_t next_arrival_ = 1;
  uint64_t next_number_ = 1;
  uint64_t drafts_ = 0;
  uint64_t with_deadline_ = 0;
  int64_t last_done_ns_ = 0;
  SchedulerCounters counters_;
};

}  // namespace bp::rt
