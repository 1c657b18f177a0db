// The same tokens and log probabilities, bit for bit, whatever the layout and whatever happens: TP x PP x batch x
// chunk x preemption and recovery x prefix hits, greedy and sampled, driven by the real scheduler. Here a set of
// cells in which every pair of values occurs; BP_DETERMINISM=all (tests/campaign.sh determinism) runs every cell.
#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <map>
#include <random>
#include <set>

#include "runtime/sched/scheduler.h"
#include "tests/support/model_harness.h"

namespace bp::test {
namespace {

constexpr uint32_t kSequences = 32, kNewTokens = 8, kCommon = 36, kBlockTokens = 16, kBlocks = 160;

// Indices into the values of each factor.
using Cell = std::array<size_t, 6>;
enum Factor { kTp, kPp, kBatch, kChunk, kTrouble, kPrefix };
const std::array<std::vector<uint32_t>, 6> kValues{{{1, 2, 3, 4}, {1, 2, 3}, {1, 8, 32}, {16, 512}, {0, 1}, {0, 1}}};

uint32_t value(const Cell& c, Factor f) { return kValues[f][c[f]]; }
std::string text(const Cell& c) {
  return "TP=" + std::to_string(value(c, kTp)) + " PP=" + std::to_string(value(c, kPp)) + " batch " +
         std::to_string(value(c, kBatch)) + " chunk " + std::to_string(value(c, kChunk)) +
         (value(c, kTrouble) ? " preempted and recovered" : "") + (value(c, kPrefix) ? " prefix hits" : "");
}

std::vector<Cell> all_cells() {
  std::vector<Cell> out{{}};
  for (size_t f = 0; f < kValues.size(); ++f) {
    std::vector<Cell> longer;
    for (const Cell& c : out)
      for (size_t v = 0; v < kValues[f].size(); ++v) {
        longer.push_back(c);
        longer.back()[f] = v;
      }
    out = std::move(longer);
  }
  return out;
}

/// Greedily: always the cell that adds most pairs of values.
std::vector<Cell> pairwise_cells() {
  using Pair = std::array<size_t, 4>;
  std::set<Pair> seen;
  const auto pairs = [](const Cell& c) {
    std::vector<Pair> out;
    for (size_t a = 0; a < c.size(); ++a)
      for (size_t b = a + 1; b < c.size(); ++b) out.push_back({a, c[a], b, c[b]});
    return out;
  };
  const std::vector<Cell> all = all_cells();
  std::vector<Cell> out;
  for (;;) {
    size_t most = 0;
    const Cell* best = nullptr;
    for (const Cell& c : all) {
      size_t fresh = 0;
      for (const Pair& p : pairs(c)) fresh += seen.count(p) == 0;
      if (fresh > most) {
        most = fresh;
        best = &c;
      }
    }
    if (!best) return out;
    for (const Pair& p : pairs(*best)) seen.insert(p);
    out.push_back(*best);
  }
}

rt::SequenceRequest request(uint32_t i, uint32_t vocab) {
  std::mt19937 random(i), common(99);
  rt::SequenceRequest r;
  r.id = i + 1;
  const uint32_t length = 3 + random() % 40;
  for (uint32_t t = 0; t < length; ++t) r.prompt.push_back(random() % vocab);
  if (i % 3 == 0) {   // a third begins alike
    std::vector<uint32_t> beginning;
    for (uint32_t t = 0; t < kCommon; ++t) beginning.push_back(common() % vocab);
    r.prompt.insert(r.prompt.begin(), beginning.begin(), beginning.end());
  }
  r.max_new_tokens = kNewTokens;
  r.sampling.set_want_logprob(true);
  r.sampling.set_logprobs(2);
  r.sampling.set_top_p(1);
  if (i % 2) {
    r.sampling.set_temperature(0.9f);
    r.sampling.set_seed(1000 + i);
    if (i % 4 == 1) r.sampling.set_top_k(50);
    else r.sampling.set_top_p(0.9f);
  }
  return r;
}

using Answers = std::map<uint64_t, std::string>;   // serialized tokens with their log probabilities

/// Steps as a head would give them out, all in order on the ranks of `harness`.
class Run {
 public:
  Run(ModelHarness& harness, const Cell& cell) : harness_(harness), cell_(cell) {
    rt::SchedulerOptions o;
    o.stages = value(cell, kPp);
    o.kv_block_tokens = kBlockTokens;
    // Preemption: room for about half of what wants to run.
    o.kv_blocks = value(cell, kTrouble) ? std::max(6u, value(cell, kBatch) * 3 / 2) : kBlocks;
    o.max_context_tokens = 96;
    o.max_waiting_tokens = 1 << 20;
    o.max_sequences = (value(cell, kBatch) + o.stages - 1) / o.stages;
    o.max_batch_tokens = o.mixed_batch_tokens = value(cell, kChunk) + value(cell, kBatch);
    o.prefix_sharing = value(cell, kPrefix) != 0;
    scheduler_ = rt::Scheduler::make(o);
  }
  Answers answers(const std::vector<rt::SequenceRequest>& requests) {
    for (const auto& r : requests) REQUIRE(scheduler_->arrive({r}, 0).ok());
    for (int round = 0; round < 5000; ++round) {
      if (value(cell_, kTrouble) && round == 9) lose();
      while (auto step = scheduler_->next_step(round)) sent_.push_back(std::move(*step));
      if (sent_.empty()) return answers_;
      finish_one(round);
    }
    FAIL("the scheduler does not come to an end");
    return {};
  }
  const rt::SchedulerCounters& counters() const { return scheduler_->counters(); }

 private:
  void lose() {
    sent_.clear();
    scheduler_->group_lost();
  }
  void finish_one(int64_t now) {
    v1::Step step = std::move(sent_.front());
    sent_.pop_front();
    auto result = harness_.step(step);
    INFO((result.ok() ? std::string() : result.error().to_string()));
    REQUIRE(result.ok());
    auto updates = scheduler_->step_done(*result, now);
    REQUIRE(updates.ok());
    for (const auto& u : *updates) answers_[u.id] += u.token.SerializeAsString();
  }
  ModelHarness& harness_;
  Cell cell_;
  std::unique_ptr<rt::Scheduler> scheduler_;
  std::deque<v1::Step> sent_;
  Answers answers_;
};

std::unique_ptr<ModelHarness> open(const rt::WeightSource& source, const Cell& cell) {
  HarnessOptions o;
  o.tp = value(cell, kTp);
  o.pp = value(cell, kPp);
  o.kv_blocks = kBlocks;
  o.kv_block_tokens = kBlockTokens;
  auto harness = ModelHarness::open(source, o);
  INFO((harness.ok() ? std::string() : harness.error().to_string()));
  REQUIRE(harness.ok());
  return *std::move(harness);
}

}  // namespace

TEST_CASE("tokens and log probabilities do not depend on layout, batch, chunks, preemption, recovery, sharing") {
  INFO(kModelMissing);
  REQUIRE_FALSE(test_model_path().empty());
  auto source = rt::open_weights(test_model_path());
  REQUIRE(source.ok());
  std::vector<rt::SequenceRequest> requests;
  for (uint32_t i = 0; i < kSequences; ++i) requests.push_back(request(i, (*source)->config().shape.vocab));
  const char* which = std::getenv("BP_DETERMINISM");
  std::vector<Cell> cells = which && std::string(which) == "all" ? all_cells() : pairwise_cells();
  REQUIRE(cells.size() >= 12);
  std::sort(cells.begin(), cells.end());   // by layout: one harness at a time
  const Cell alone{0, 0, 0, 1, 0, 0};
  auto harness = open(**source, alone);
  const Answers want = Run(*harness, alone).answers(requests);
  REQUIRE(want.size() == kSequences);
  size_t at_tp = 0, at_pp = 0;
  uint64_t preemptions = 0, shared = 0;
  for (const Cell& cell : cells) {
    INFO(text(cell));
    if (cell[kTp] != at_tp || cell[kPp] != at_pp) harness = open(**source, cell);
    at_tp = cell[kTp];
    at_pp = cell[kPp];
    // Alone a few are enough: they are the same as those of the yardstick.
    const size_t count = value(cell, kBatch) == 1 ? 5 : value(cell, kBatch) == 8 ? 16 : kSequences;
    Run run(*harness, cell);
    const Answers got = run.answers({requests.begin(), requests.begin() + static_cast<ptrdiff_t>(count)});
    CHECK(got.size() == count);
    for (const auto& [id, answer] : got) {
      INFO("sequence " << id);
      CHECK((answer == want.at(id)));   // the bytes are nothing to print
    }
    preemptions += run.counters().preemptions;
    shared += run.counters().shared_tokens;
    if (which) WARN(text(cell) << ": " << got.size() << " sequences compared");
  }
  CHECK(preemptions > 4);
  CHECK(shared > 100);
}

}  // namespace bp::test
