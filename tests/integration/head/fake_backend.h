// A StepBackend without ranks: a deterministic model that says a fixed text, token by token, behind
// the last end-of-turn token of the history. It can be slowed, broken and brought back.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "runtime/head/engine_loop.h"
#include "runtime/head/step_backend.h"
#include "runtime/text/tokenizer.h"

namespace bp::rt {

constexpr uint32_t kFakeEnd = 2;  // <|im_end|> of tests/golden/text/small_bpe
inline const std::string kFakeText =
    "The capital of France is Paris. \xf0\x9f\x98\x80 It lies on the Seine.";

struct FakeControl {
  std::mutex mutex;
  std::condition_variable changed;
  bool serving = true;
  bool break_now = false;
  bool woken = false;
  std::atomic<bool> wrong_number{false};  // the next result names a step that was never sent
  std::string failed;                     // why the engine gave the group up
  std::atomic<int> step_ms{0};
  std::atomic<uint64_t> steps{0};
  std::atomic<uint32_t> saw_bias_of{0};   // the token of the last logit bias
  std::atomic<int> most_seen{0};          // the longest list of generated tokens that a penalty came with

  bool failed_with(const std::string& text) {
    std::lock_guard lock(mutex);
    return failed.find(text) != std::string::npos;
  }
  void set_serving(bool on) {
    std::lock_guard lock(mutex);
    if (serving && !on) break_now = true;
    serving = on;
    changed.notify_all();
  }
};

class FakeBackend final : public StepBackend {
 public:
  FakeBackend(std::shared_ptr<FakeControl> control, const Tokenizer& tokenizer)
      : control_(std::move(control)), script_(tokenizer.encode(kFakeText, false, false)) {
    script_.push_back(kFakeEnd);
  }
  std::vector<RankGroupEvent> poll(Deadline deadline) override {
    std::vector<RankGroupEvent> out;
    std::unique_lock lock(control_->mutex);
    if (steps_.empty()) {
      control_->changed.wait_for(lock, std::chrono::milliseconds(deadline.left_ms()), [this] {
        return control_->woken || control_->break_now || control_->serving != announced_;
      });
    }
    control_->woken = false;
    RankGroupEvent event;
    if (control_->break_now) {
      control_->break_now = false;
      announced_ = false;
      steps_.clear();
      slots_.clear();
      event.kind = RankGroupEvent::Kind::kBroken;
      event.error = Error{ErrorCode::kPeerLost, "rank 3 is gone", {}};
      out.push_back(event);
    }
    if (control_->serving && !announced_) {
      announced_ = true;
      event.kind = RankGroupEvent::Kind::kServing;
      out.push_back(event);
    }
    lock.unlock();
    if (!out.empty() || steps_.empty()) return out;
    if (control_->step_ms > 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(control_->step_ms));
    event.kind = RankGroupEvent::Kind::kStepDone;
    event.result = execute(steps_.front());
    steps_.pop_front();
    ++control_->steps;
    out.push_back(event);
    return out;
  }
  void wake() override {
    std::lock_guard lock(control_->mutex);
    control_->woken = true;
    control_->changed.notify_all();
  }
  Status send_step(const v1::Step& step) override {
    steps_.push_back(step);
    return {};
  }
  Status expect_group(Epoch) override { return {}; }
  void fail(Error why) override {
    control_->set_serving(false);
    std::lock_guard lock(control_->mutex);
    control_->failed = why.message;
  }
  void shutdown(const std::string&) override {}
  bool serving() const override {
    std::lock_guard lock(control_->mutex);
    return control_->serving;
  }
  void fill_status(v1::HeadStatus* status) const override {
    status->set_serving(serving());
    status->set_ranks_expected(4);
  }

 private:
  v1::StepResult execute(const v1::Step& step) {
    v1::StepResult result;
    result.set_number(step.number() + (control_->wrong_number.exchange(false) ? 100 : 0));
    for (const auto& s : step.sequences()) {
      auto& history = slots_[s.sequence_id()];
      history.resize(s.position());
      history.insert(history.end(), s.tokens().begin(), s.tokens().end());
      if (!s.sample()) continue;
      for (const auto& b : s.sampling().logit_bias()) control_->saw_bias_of = b.token();
      control_->most_seen = std::max<int>(control_->most_seen, s.sampling().seen_size());
      size_t behind = 0;
      while (behind < history.size() && history[history.size() - 1 - behind] != kFakeEnd) ++behind;
      auto* token = result.add_tokens();
      token->set_sequence_id(s.sequence_id());
      token->set_token(script_[behind % script_.size()]);
      token->set_logprob(-0.5f);
      for (uint32_t i = 0; i < s.sampling().logprobs(); ++i) {
        auto* top = token->add_top();
        top->set_token(i == 0 ? token->token() : 20 + i);
        top->set_logprob(-0.5f - static_cast<float>(i));
      }
    }
    return result;
  }

  std::shared_ptr<FakeControl> control_;
  std::vector<uint32_t> script_;
  std::deque<v1::Step> steps_;
  std::unordered_map<uint64_t, std::vector<uint32_t>> slots_;
  bool announced_ = false;
};

inline EngineOptions fake_engine_options() {
  EngineOptions o;
  o.scheduler.kv_blocks = 256;
  o.scheduler.kv_block_tokens = 16;
  o.scheduler.max_context_tokens = 1024;
  o.scheduler.max_waiting = 24;
  o.scheduler.max_sequences = 16;
  o.canary_prompt = {5};
  o.canary_every_ms = 200;
  o.canary_fresh_ms = 1000;
  o.group_wait_ms = 1500;
  return o;
}

}  // namespace bp::rt
