// The scheduler against a deterministic model: the next token is a hash of all tokens before it. A
// model of the ranks checks every step (blocks owned by one sequence, positions that follow).
#include "runtime/sched/scheduler.h"

#include <catch2/catch.hpp>
#include <random>
#include <set>

namespace bp::rt {
namespace {

uint32_t fake_token(const std::vector<uint32_t>& history) {
  uint64_t h = 1469598103934665603ull;
  for (uint32_t t : history) h = (h ^ t) * 1099511628211ull;
  return static_cast<uint32_t>(h >> 33) % 50;
}

std::vector<uint32_t> expected_tokens(const SequenceRequest& r) {
  std::vector<uint32_t> history = r.prompt, out;
  while (out.size() < r.max_new_tokens) {
    uint32_t t = fake_token(history);
    out.push_back(t);
    history.push_back(t);
    if (std::find(r.stop_tokens.begin(), r.stop_tokens.end(), t) != r.stop_tokens.end()) break;
  }
  return out;
}

/// What ranks hold: a token in every slot of every block. Executes steps in order.
class FakeRanks {
 public:
  explicit FakeRanks(const SchedulerOptions& o)
      : options_(o), slots_(o.kv_blocks * o.kv_block_tokens, 0xffffffff) {}

  v1::StepResult execute(const v1::Step& step) {
    REQUIRE(step.number() == ++last_);
    v1::StepResult result;
    result.set_number(step.number());
    std::set<uint32_t> used;
    uint32_t tokens = 0;
    REQUIRE(static_cast<uint32_t>(step.sequences_size()) <= options_.max_sequences);
    for (const auto& s : step.sequences()) {
      tokens += static_cast<uint32_t>(s.tokens_size());
      uint32_t end = s.position() + static_cast<uint32_t>(s.tokens_size());
      REQUIRE(s.tokens_size() > 0);
      REQUIRE(static_cast<uint32_t>(s.blocks_size()) ==
              (end + options_.kv_block_tokens - 1) / options_.kv_block_tokens);
      for (uint32_t b : s.blocks()) {
        REQUIRE(b < options_.kv_blocks);
        REQUIRE(used.insert(b).second);  // no block shared between sequences
      }
      auto slot = [&](uint32_t position) -> uint32_t& {
        return slots_[s.blocks(static_cast<int>(position / options_.kv_block_tokens)) *
                          options_.kv_block_tokens +
                      position % options_.kv_block_tokens];
      };
      for (int i = 0; i < s.tokens_size(); ++i)
        slot(s.position() + static_cast<uint32_t>(i)) = s.tokens(i);
      if (!s.sample()) continue;
      std::vector<uint32_t> history;
      for (uint32_t p = 0; p < end; ++p) history.push_back(slot(p));
      auto* token = result.add_tokens();
      token->set_sequence_id(s.sequence_id());
      token->set_token(fake_token(history));
    }
    REQUIRE(tokens <= options_.max_batch_tokens);
    return result;
  }

 private:
  SchedulerOptions options_;
  std::vector<uint32_t> slots_;
  uint64_t last_ = 0;
};

SequenceRequest request(uint64_t id, uint32_t prompt_tokens, uint32_t new_tokens) {
  SequenceRequest r;
  r.id = id;
  for (uint32_t i = 0; i < prompt_tokens; ++i)
    r.prompt.push_back(static_cast<uint32_t>(id * 31 + i) % 50);
  r.max_new_tokens = new_tokens;
  return r;
}

struct World {
  explicit World(SchedulerOptions o)
      : options(o), scheduler(Scheduler::make(o)), ranks(std::make_unique<FakeRanks>(o)) {}

  bool send() {
    auto step = scheduler->next_step();
    if (!step) return false;
    for (const auto& s : step->sequences()) {
      if (s.sample())
        REQUIRE(sampling.insert(s.sequence_id()).second);
      else
        REQUIRE(!sampling.count(s.sequence_id()));
    }
    sent.push_back(*step);
    REQUIRE(sent.size() <= options.steps_outstanding);
    return true;
  }
  bool finish_one() {
    if (sent.empty()) return false;
    for (const auto& s : sent.front().sequences()) {
      if (s.sample()) sampling.erase(s.sequence_id());
    }
    auto updates = scheduler->step_done(ranks->execute(sent.front()));
    sent.pop_front();
    REQUIRE(updates.ok());
    for (const auto& u : *updates) {
      REQUIRE(!cancelled.count(u.id));
      REQUIRE(!ended.count(u.id));
      tokens[u.id].push_back(u.token.token());
      if (u.finished) ended[u.id] = u.finish_reason;
    }
    return true;
  }
  void lose_group() {
    scheduler->group_lost();
    ranks = std::make_unique<FakeRanks>(options);
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
  std::deque<v1::Step> sent;
  std::set<uint64_t> sampling, cancelled;
  std::map<uint64_t, std::vector<uint32_t>> tokens;
  std::map<uint64_t, std::string> ended;
};

SchedulerOptions small_options() {
  SchedulerOptions o;
  o.kv_blocks = 16;
  o.kv_block_tokens = 4;
  o.max_context_tokens = 60;
  o.max_batch_tokens = 10;
  o.max_sequences = 4;
  o.steps_outstanding = 2;
  o.max_waiting = 100;
  return o;
}

}  // namespace

TEST_CASE("one sequence is prefilled in chunks that are under way together, then decoded",
          "[sched]") {
  World w(small_options());
  REQUIRE(w.scheduler->arrive(request(7, 25, 3)).ok());
  REQUIRE(w.send());
  REQUIRE(w.send());
  CHECK(!w.send());  // two are outstanding
  CHECK(w.sent[0].sequences(0).tokens_size() == 10);
  CHECK(w.sent[1].sequences(0).position() == 10);
  CHECK(!w.sent[1].sequences(0).sample());
  w.run_dry();
  CHECK(w.tokens[7] == expected_tokens(request(7, 25, 3)));
  CHECK(w.ended[7] == "length");
  CHECK(w.scheduler->free_blocks() == 16);
}

TEST_CASE("stop tokens end a sequence with their own token last", "[sched]") {
  World w(small_options());
  SequenceRequest r = request(1, 5, 30);
  r.stop_tokens = {expected_tokens(r)[4]};
  REQUIRE(w.scheduler->arrive(r).ok());
  w.run_dry();
  CHECK(w.tokens[1] == expected_tokens(r));
  CHECK(w.ended[1] == "stop");
}

TEST_CASE("what cannot be served is refused at the door", "[sched]") {
  auto o = small_options();
  o.max_waiting = 1;
  auto s = Scheduler::make(o);
  CHECK(s->arrive(request(1, 50, 11)).error().code == ErrorCode::kTooLarge);
  CHECK(s->arrive(request(1, 0, 1)).error().code == ErrorCode::kInvalidArgument);
  CHECK(s->arrive(request(1, 1, 0)).error().code == ErrorCode::kInvalidArgument);
  CHECK(s->arrive(request(1, 5, UINT32_MAX)).error().code == ErrorCode::kTooLarge);
  REQUIRE(s->arrive(request(1, 50, 10)).ok());
  CHECK(s->arrive(request(2, 5, 5)).error().code == ErrorCode::kUnavailable);
  REQUIRE(s->next_step());
  CHECK(s->arrive(request(1, 5, 5)).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("results out of order or without a token are refused", "[sched]") {
  auto s = Scheduler::make(small_options());
  v1::StepResult r;
  r.set_number(1);
  CHECK(s->step_done(r).error().code == ErrorCode::kProtocol);
  REQUIRE(s->arrive(request(1, 5, 5)).ok());
  REQUIRE(s->next_step());
  CHECK(s->step_done(r).error().code == ErrorCode::kProtocol);
  r.set_number(2);
  CHECK(s->step_done(r).error().code == ErrorCode::kProtocol);
}

TEST_CASE("blocks of a cancelled sequence stay reserved while a step uses them", "[sched]") {
  World w(small_options());
  REQUIRE(w.scheduler->arrive(request(1, 8, 5)).ok());
  REQUIRE(w.send());
  w.scheduler->cancel(1);
  w.cancelled.insert(1);
  CHECK(w.scheduler->free_blocks() == 14);
  REQUIRE(w.finish_one());
  CHECK(w.scheduler->free_blocks() == 16);
  CHECK(w.scheduler->running() == 0);
  w.scheduler->cancel(99);
}

TEST_CASE("random histories: nothing leaks, everybody ends, tokens do not depend on what happened",
          "[sched]") {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    auto pick = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    SchedulerOptions o = small_options();
    o.kv_blocks = 15 + pick(20);
    o.max_batch_tokens = 1 + pick(20);
    o.max_sequences = 1 + pick(6);
    o.steps_outstanding = 1 + pick(4);
    World w(o);
    std::map<uint64_t, SequenceRequest> requests;
    uint64_t next_id = 1;
    for (int i = 0; i < 150; ++i) {
      switch (pick(8)) {
        case 0: {
          SequenceRequest r = request(next_id++, 1 + pick(40), 1 + pick(20));
          if (pick(2)) r.stop_tokens = {pick(50)};
          auto arrived = w.scheduler->arrive(r);
          if (arrived.ok()) requests[r.id] = r;
          break;
        }
        case 1:
          if (next_id > 1 && pick(3) == 0) {
            uint64_t id = 1 + pick(static_cast<uint32_t>(next_id - 1));
            w.scheduler->cancel(id);
            if (!w.ended.count(id)) w.cancelled.insert(id);
          }
          break;
        case 2:
          if (pick(10) == 0) w.lose_group();
          break;
        case 3:
        case 4:
        case 5:
          w.send();
          break;
        default:
          w.finish_one();
      }
    }
    w.run_dry();
    CHECK(w.scheduler->running() == 0);
    CHECK(w.scheduler->waiting() == 0);
    CHECK(w.scheduler->free_blocks() == o.kv_blocks);
    for (const auto& [id, r] : requests) {
      std::vector<uint32_t> want = expected_tokens(r);
      if (w.cancelled.count(id))
        want.resize(std::min(want.size(), w.tokens[id].size()));
      else
        CHECK(w.ended.count(id) == 1);
      CHECK(w.tokens[id] == want);
    }
  }
}

}  // namespace bp::rt
