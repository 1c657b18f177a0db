// ModelHarness: all ranks of a TP x PP layout as threads of one test, stepped together.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/models/model_runner.h"
#include "tests/support/thread_communicator.h"

namespace bp::test {

/// The model that the numeric tests use; empty when it is missing.
inline std::string test_model_path() {
  const char* given = std::getenv("BP_TEST_MODEL");
  const char* home = std::getenv("HOME");
  const std::string path = given ? given : std::string(home ? home : "") +
                                               "/.cache/bp-daemon/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  return std::filesystem::exists(path) ? path : "";
}
inline const char* kModelMissing =
    "the test model is missing: run ./setup.sh, or point BP_TEST_MODEL at SmolLM2-135M-Instruct.Q4_1.gguf";

struct HarnessOptions {
  uint32_t tp = 1, pp = 1;
  bool exact = false;
  uint32_t threads = 1;          // per rank
  uint32_t kv_blocks = 64, kv_block_tokens = 16;
};

class ModelHarness {
 public:
  static Result<std::unique_ptr<ModelHarness>> open(const rt::WeightSource& source, const HarnessOptions& o) {
    auto h = std::unique_ptr<ModelHarness>(new ModelHarness());
    h->options = o;
    BP_ASSIGN(h->plan, plan::make_shard_plan(source.config().shape, o.tp, o.pp));
    for (uint32_t p = 0; p < o.pp; ++p) h->tp_groups_.push_back(ThreadCommunicator::make_group(o.tp));
    for (uint32_t t = 0; t < o.tp; ++t) h->pp_groups_.push_back(ThreadCommunicator::make_group(o.pp));
    for (uint32_t r = 0; r < o.tp * o.pp; ++r) {
      BP_ASSIGN(const uint64_t weights, rt::weights_segment_bytes(source, h->plan, r, o.exact));
      h->weights_.emplace_back(weights);
      h->kv_.emplace_back(rt::kv_segment_bytes(h->plan, r, o.kv_block_tokens, o.kv_blocks, o.exact));
      rt::RunnerOptions options{h->plan, r, o.kv_block_tokens, o.kv_blocks, o.exact, o.threads};
      const rt::RunnerComms comms{h->tp_groups_[r / o.tp][r % o.tp].get(), h->pp_groups_[r % o.tp][r / o.tp].get()};
      BP_ASSIGN(auto runner, rt::ModelRunner::load(source, options, {h->weights_.back(), h->kv_.back()}, comms, {},
                                                   nullptr));
      h->runners.push_back(std::move(runner));
    }
    return h;
  }

  /// Runs the step on every rank; the result of the rank that samples, or the first error.
  Result<v1::StepResult> step(const v1::Step& step) {
    std::vector<Result<v1::StepResult>> results(runners.size(), Result<v1::StepResult>(v1::StepResult{}));
    std::vector<std::thread> threads;
    for (size_t r = 1; r < runners.size(); ++r)
      threads.emplace_back([&, r] { results[r] = run(r, step); });
    results[0] = run(0, step);
    for (auto& t : threads) t.join();
    for (const auto& r : results)
      if (!r.ok() && r.error().code != ErrorCode::kStaleEpoch) return r.error();
    for (const auto& r : results)
      if (!r.ok()) return r.error();
    return results[sampler()];
  }
  size_t sampler() const { return size_t(options.tp) * (options.pp - 1); }
  std::vector<float> logits() const { return runners[sampler()]->TEST_last_logits(); }

  HarnessOptions options;
  plan::ShardPlan plan;
  std::vector<std::unique_ptr<rt::ModelRunner>> runners;

 private:
  ModelHarness() = default;
  Result<v1::StepResult> run(size_t r, const v1::Step& step) {
    auto result = runners[r]->execute(step);
    if (!result.ok()) {   // nobody waits for a rank that failed
      for (auto& g : tp_groups_) g[0]->abort();
      for (auto& g : pp_groups_) g[0]->abort();
    }
    return result;
  }
  std::vector<std::vector<std::unique_ptr<ThreadCommunicator>>> tp_groups_, pp_groups_;
  std::vector<std::vector<std::byte>> weights_, kv_;
};

/// A sequence of a test: its blocks are [first_block, ...) in order.
struct TestSequence {
  uint64_t id = 1;
  std::vector<uint32_t> tokens;   // prompt, then what was sampled
  uint32_t done = 0;              // tokens whose keys and values are in the cache
  uint32_t first_block = 0;
};

/// Adds the next `count` tokens of `s` to `step`; the last one samples when it is the newest token.
inline void add_tokens(v1::Step& step, TestSequence& s, uint32_t count, uint32_t block_tokens,
                       const v1::Sampling& sampling = {}) {
  v1::StepSequence* q = step.add_sequences();
  q->set_sequence_id(s.id);
  q->set_position(s.done);
  for (uint32_t i = 0; i < count; ++i) q->add_tokens(s.tokens[s.done + i]);
  s.done += count;
  for (uint32_t b = 0; b * block_tokens < s.done; ++b) q->add_blocks(s.first_block + b);
  q->set_sample(s.done == s.tokens.size());
  *q->mutable_sampling() = sampling;
}

/// Generates `count` tokens for all sequences together, prompts in chunks of at most `chunk` tokens.
inline Status generate(ModelHarness& h, std::vector<TestSequence>& sequences, uint32_t count, uint32_t chunk,
                       const v1::Sampling& sampling = {}) {
  std::vector<size_t> goal;
  for (const TestSequence& s : sequences) goal.push_back(s.tokens.size() + count);
  for (uint64_t number = 1;; ++number) {
    v1::Step step;
    step.set_number(number);
    for (size_t i = 0; i < sequences.size(); ++i) {
      TestSequence& s = sequences[i];
      if (s.tokens.size() >= goal[i]) continue;
      const auto left = static_cast<uint32_t>(s.tokens.size()) - s.done;
      add_tokens(step, s, std::min(left, chunk), h.options.kv_block_tokens, sampling);
    }
    if (step.sequences_size() == 0) return {};
    BP_ASSIGN(const v1::StepResult result, h.step(step));
    for (const auto& t : result.tokens())
      for (TestSequence& s : sequences)
        if (s.id == t.sequence_id()) s.tokens.push_back(t.token());
  }
}

}  // namespace bp::test
