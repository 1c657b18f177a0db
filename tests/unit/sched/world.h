// A world for the scheduler: its ranks, its clock, and what came of every request.
#pragma once
#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "tests/unit/sched/fake_ranks.h"

namespace bp::rt {

inline SequenceRequest request(uint64_t id, uint32_t prompt_tokens, uint32_t new_tokens) {
  SequenceRequest r;
  r.id = id;
  for (uint32_t i = 0; i < prompt_tokens; ++i)
    r.prompt.push_back(static_cast<uint32_t>(id * 31 + i) % 50);
  r.max_new_tokens = new_tokens;
  return r;
}

struct World {
  explicit World(SchedulerOptions o, std::unique_ptr<Scheduler> s = nullptr)
      : options(o),
        scheduler(s ? std::move(s) : Scheduler::make(o)),
        ranks(std::make_unique<FakeRanks>(o)) {}

  Status arrive(SequenceRequest r) {
    std::vector<SequenceRequest> all;
    all.push_back(std::move(r));
    return scheduler->arrive(std::move(all), now_ns);
  }
  bool send() {
    auto step = scheduler->next_step(now_ns);
    if (!step) return false;
    for (const auto& s : step->sequences()) {
      if (s.sample())
        REQUIRE(sampling.insert(s.sequence_id()).second);
      else
        REQUIRE(!sampling.count(s.sequence_id()));
    }
    sent.push_back(*step);
    steps.push_back(*step);
    REQUIRE(sent.size() <= options.stages);
    return true;
  }
  bool finish_one() {
    if (sent.empty()) return false;
    now_ns += 1'000'000;
    for (const auto& s : sent.front().sequences())
      if (s.sample()) sampling.erase(s.sequence_id());
    auto updates = scheduler->step_done(ranks->execute(sent.front()), now_ns);
    sent.pop_front();
    REQUIRE(updates.ok());
    for (const auto& u : *updates) {
      REQUIRE(!cancelled.count(u.id));
      REQUIRE(!ended.count(u.id));
      tokens[u.id].push_back(u.token.token());
      if (u.finished) {
        ended[u.id] = u.finish_reason;
        order.push_back(u.id);
      }
    }
    return true;
  }
  /// `executed` of the steps under way are done, but nobody hears of it: all will be done again.
  void forget_results(size_t executed) {
    if (sent.empty()) return;
    for (size_t i = 0; i < std::min(executed, sent.size()); ++i) (void)ranks->execute(sent[i]);
    ranks->start_again(sent.front().number());
  }
  void lose_group() {
    ranks = std::make_unique<FakeRanks>(options);
    scheduler->group_lost();
    sent.clear();
    sampling.clear();
  }
  void run_dry() {
    for (int i = 0; i < 100'000; ++i) {
      while (send()) {
      }
      if (!finish_one()) return;
    }
    FAIL("the scheduler does not come to an end");
  }

  SchedulerOptions options;
  std::unique_ptr<Scheduler> scheduler;
  std::unique_ptr<FakeRanks> ranks;
  int64_t now_ns = 1'000'000'000;
  std::deque<v1::Step> sent;
  std::vector<v1::Step> steps;  // all of them
  std::set<uint64_t> sampling, cancelled;
  std::map<uint64_t, std::vector<uint32_t>> tokens;
  std::map<uint64_t, std::string> ended;
  std::vector<uint64_t> order;  // in which they ended
};

inline SchedulerOptions small_options() {
  SchedulerOptions o;
  o.kv_blocks = 16;
  o.kv_block_tokens = 4;
  o.max_context_tokens = 60;
  o.max_batch_tokens = 10;
  o.mixed_batch_tokens = 10;
  o.max_sequences = 4;
  o.stages = 2;
  o.step_overhead_tokens = 1;
  o.max_waiting = 100;
  o.max_waiting_tokens = 100'000;
  return o;
}

}  // namespace bp::rt
