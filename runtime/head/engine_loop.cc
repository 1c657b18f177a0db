#include "runtime/head/engine_loop.h"

#include <fmt/format.h>

#include <mutex>
#include <thread>
#include <unordered_map>
#include <variant>

#include "engine/base/log.h"
#include "runtime/head/outbox.h"
#include "runtime/sched/trace.h"

namespace bp::rt {
namespace {

constexpr int64_t kPollMs = 50;  // well below lease_ms / 8

struct Cancel {
  std::vector<uint64_t> ids;
  bool text_is_complete = false;  // a stop string ended it
};
struct AskCanary {
  EngineLoop::CanaryDone done;
};
struct Expect {
  Epoch epoch;
  std::function<void(Status)> done;
};
struct Drain {
  int64_t until_ns;
  std::function<void(uint64_t)> done;
};
using Command = std::variant<std::vector<EngineLoop::Submission>, Cancel, AskCanary, Expect, Drain>;

class EngineLoopImpl final : public EngineLoop {
 public:
  EngineLoopImpl(EngineOptions options, std::unique_ptr<StepBackend> backend)
      : options_(std::move(options)),
        backend_(std::move(backend)),
        outbox_(options_.deliver, [this](std::vector<uint64_t> ids) {
          push(Cancel{std::move(ids), /*text_is_complete=*/true});
        }) {
    scheduler_ = options_.trace ? make_recorded_scheduler(options_.scheduler, options_.trace)
                                : Scheduler::make(options_.scheduler);
    not_serving_since_ns_ = monotonic_ns();
    thread_ = std::thread([this] { run(); });
  }
  ~EngineLoopImpl() override {
    stop_ = true;
    backend_->wake();
    thread_.join();
  }

  // ---- any thread

  Result<std::vector<uint64_t>> submit(std::vector<Submission> sequences) override {
    if (draining_) return Error{ErrorCode::kUnavailable, "the head is draining for its end", {}};
    if (!backend_->serving())
      return Error{ErrorCode::kUnavailable, "the ranks are not serving yet", {}};
    live_ += sequences.size();
    std::vector<uint64_t> ids;
    for (auto& s : sequences) ids.push_back(s.request.id = next_id_++);
    for (auto& s : sequences)
      if (s.request.same_prompt_as) s.request.same_prompt_as = ids.at(s.request.same_prompt_as - 1);
    push(std::move(sequences));
    return ids;
  }
  void cancel(std::vector<uint64_t> ids) override { push(Cancel{std::move(ids), false}); }
  void canary(CanaryDone done) override { push(AskCanary{std::move(done)}); }
  void expect_group(Epoch epoch, std::function<void(Status)> done) override {
    push(Expect{epoch, std::move(done)});
  }
  void drain(int64_t deadline_ms, std::function<void(uint64_t)> done) override {
    draining_ = true;
    push(Drain{Deadline::in_ms(deadline_ms).ns(), std::move(done)});
  }
  bool serving() const override { return backend_->serving(); }
  bool draining() const override { return draining_; }
  int64_t last_token_age_ms() const override {
    int64_t at = last_token_ns_;
    return at == 0 ? -1 : (monotonic_ns() - at) / 1'000'000;
  }
  bool ready() const override {
    int64_t age = group_proven_ ? last_token_age_ms() : -1;
    return backend_->serving() && !draining_ && age >= 0 && age < options_.canary_fresh_ms;
  }
  void fill_status(v1::HeadStatus* status) const override {
    backend_->fill_status(status);
    status->set_last_canary_age_ms(last_token_age_ms());
    status->set_requests_running(stats_.running);
    status->set_requests_waiting(stats_.waiting);
  }
  const EngineStats& stats() const override { return stats_; }

 private:
  struct CanaryRun {
    int64_t begin_ns;
    CanaryDone done;
  };

  void push(Command command) {
    {
      std::lock_guard lock(mutex_);
      inbox_.push_back(std::move(command));
    }
    backend_->wake();
  }

  // ---- engine thread

  void run() {
    while (!stop_) {
      try {
        for (RankGroupEvent& event : backend_->poll(Deadline::in_ms(kPollMs))) handle(event);
        std::vector<Command> commands;
        {
          std::lock_guard lock(mutex_);
          commands.swap(inbox_);
        }
        for (Command& c : commands) std::visit([this](auto& v) { take(v); }, c);
        give_up_waiting();
        expire();
        start_own_canary();
        pump();
        outbox_.hand_out();
        report();
      } catch (const std::exception&
                   e) {  // of a sink or a full memory: the ranks must keep their leases
        BP_LOG(err, "engine.failed", "error={}", e.what());
      }
    }
    Error ended{ErrorCode::kUnavailable, "the head is ending", {}};
    fail_all(ended);
    outbox_.hand_out();
    backend_->shutdown("the head is ending");
  }

  void handle(RankGroupEvent& event) {
    switch (event.kind) {
      case RankGroupEvent::Kind::kServing:
        BP_LOG(info, "group.serving", "epoch={}", event.epoch.to_string());
        if (group_up_)
          lose_group(Error{ErrorCode::kStaleEpoch, "a newer group of ranks took over", {}});
        group_up_ = true;
        not_serving_since_ns_ = 0;
        break;
      case RankGroupEvent::Kind::kBroken:
        BP_LOG(warn, "group.broken", "epoch={} error={}", event.epoch.to_string(),
               event.error.to_string());
        lose_group(event.error);
        break;
      case RankGroupEvent::Kind::kStepDone:
        if (group_up_) step_done(event.result);  // else the step was given up already
        break;
    }
  }

  void lose_group(const Error& why) {
    if (!group_up_ && not_serving_since_ns_ != 0) return;
    group_up_ = false;
    group_proven_ = false;
    not_serving_since_ns_ = monotonic_ns();
    ++stats_.groups_lost;
    scheduler_->group_lost();
    // A canary proves the group it was sent through; it does not wait for another.
    for (auto& [id, run] : canaries_) {
      scheduler_->cancel(id);
      if (run.done) run.done(why);
    }
    canaries_.clear();
  }

  void step_done(const v1::StepResult& result) {
    ++stats_.steps;
    stats_.step_us += static_cast<uint64_t>(std::max<int64_t>(0, result.compute_us()));
    auto updates = scheduler_->step_done(result, monotonic_ns());
    if (!updates.ok()) {
      BP_LOG(err, "step.refused", "step={} error={}", result.number(), updates.error().to_string());
      backend_->fail(Error(updates.error()).with_context("a result does not fit its step"));
      return lose_group(updates.error());
    }
    if (!updates->empty()) {
      last_token_ns_ = monotonic_ns();
      group_proven_ = true;
    }
    for (SequenceUpdate& u : *updates) deliver(u);
  }

  void deliver(SequenceUpdate& u) {
    if (auto canary = canaries_.find(u.id); canary != canaries_.end()) {
      CanaryRun run = std::move(canary->second);
      canaries_.erase(canary);
      if (run.done) run.done(Canary{(monotonic_ns() - run.begin_ns) / 1'000'000, u.token.token()});
      return;
    }
    auto found = sequences_.find(u.id);
    if (found == sequences_.end()) return;
    ++stats_.generated_tokens;
    outbox_.token(u.id, found->second, u);
    if (!u.finished) return;
    ++stats_.sequences_done;
    forget(u.id);
  }

  void forget(uint64_t id) {
    if (sequences_.erase(id)) --live_;
  }
  void fail(uint64_t id, const Error& error) {
    auto found = sequences_.find(id);
    if (found == sequences_.end()) return;
    ++stats_.sequences_failed;
    outbox_.failure(id, found->second, error, scheduler_->retry_after_ms());
    forget(id);
  }
  void fail_all(const Error& error) {
    std::vector<uint64_t> ids;
    for (const auto& [id, s] : sequences_) ids.push_back(id);
    for (uint64_t id : ids) {
      scheduler_->cancel(id);
      fail(id, error);
    }
  }

  void take(std::vector<Submission>& submissions) {
    std::vector<SequenceRequest> requests;
    std::vector<uint64_t> ids;
    for (Submission& s : submissions) {
      stats_.prompt_tokens += s.request.prompt.size();
      ids.push_back(s.request.id);
      auto listener = std::make_shared<Listener>();
      listener->sink = std::move(s.sink);
      sequences_[s.request.id] = std::move(listener);
      requests.push_back(std::move(s.request));
    }
    auto arrived = scheduler_->arrive(std::move(requests), monotonic_ns());
    if (arrived.ok()) return;
    for (uint64_t id : ids) fail(id, arrived.error());
  }
  void take(Cancel& c) {
    for (uint64_t id : c.ids) {
      auto found = sequences_.find(id);
      if (found == sequences_.end()) continue;
      found->second->unwanted = true;
      scheduler_->cancel(id);
      ++(c.text_is_complete ? stats_.sequences_done : stats_.sequences_cancelled);
      forget(id);
    }
  }
  void expire() {
    for (uint64_t id : scheduler_->expire(monotonic_ns()))
      fail(id, Error{ErrorCode::kDeadlineExceeded, "the request's time is up", {}});
  }
  void take(AskCanary& c) {
    if (!group_up_) return c.done(Error{ErrorCode::kUnavailable, "the ranks are not serving", {}});
    start_canary(std::move(c.done));
  }
  void take(Expect& e) {
    auto status = backend_->expect_group(e.epoch);
    if (status.ok() && !backend_->serving() && group_up_) {
      lose_group(Error{ErrorCode::kStaleEpoch, "a newer group of ranks is expected", {}});
    }
    e.done(std::move(status));
  }
  void take(Drain& d) { drains_.push_back(std::move(d)); }

  void start_canary(CanaryDone done) {
    SequenceRequest r;
    r.id = next_id_++;
    r.prompt = options_.canary_prompt;
    r.max_new_tokens = 1;
    r.sampling.set_top_p(1);
    canary_started_ns_ = monotonic_ns();
    r.priority = kProbePriority;
    uint64_t id = r.id;
    std::vector<SequenceRequest> one;
    one.push_back(std::move(r));
    auto arrived = scheduler_->arrive(std::move(one), canary_started_ns_);
    if (!arrived.ok()) {
      if (done) done(arrived.error());
      return;
    }
    canaries_[id] = CanaryRun{canary_started_ns_, std::move(done)};
  }
  /// At once for a new group, then whenever nothing else has come through for a while.
  void start_own_canary() {
    if (!group_up_ || !canaries_.empty()) return;
    int64_t since = std::max<int64_t>(last_token_ns_, canary_started_ns_);
    if (!group_proven_ || monotonic_ns() - since > options_.canary_every_ms * 1'000'000)
      start_canary(nullptr);
  }

  void pump() {
    while (group_up_ && backend_->serving()) {
      auto step = scheduler_->next_step(monotonic_ns());
      if (!step) return;
      auto sent = backend_->send_step(*step);
      if (!sent.ok()) {
        BP_LOG(warn, "step.unsent", "step={} error={}", step->number(), sent.error().to_string());
        return lose_group(sent.error());
      }
    }
  }

  /// Sequences wait for a new group only so long.
  void give_up_waiting() {
    if (group_up_ || sequences_.empty() || not_serving_since_ns_ == 0) return;
    if (monotonic_ns() - not_serving_since_ns_ < options_.group_wait_ms * 1'000'000) return;
    fail_all(
        Error{ErrorCode::kUnavailable,
              fmt::format("no group of ranks came back within {} s", options_.group_wait_ms / 1000),
              {}});
  }

  void report() {
    stats_.running = scheduler_->running();
    stats_.waiting = scheduler_->waiting();
    stats_.free_blocks = scheduler_->free_blocks();
    stats_.waiting_tokens = scheduler_->waiting_tokens();
    stats_.tokens_per_s = scheduler_->tokens_per_s();
    const SchedulerCounters& c = scheduler_->counters();
    stats_.preemptions = c.preemptions;
    stats_.shared_tokens = c.shared_tokens;
    stats_.copied_blocks = c.copied_blocks;
    stats_.refused = c.refused;
    stats_.expired = c.expired;
    for (size_t i = 0; i < drains_.size();) {
      if (live_ > 0 && monotonic_ns() < drains_[i].until_ns) {
        ++i;
        continue;
      }
      auto done = std::move(drains_[i].done);
      drains_.erase(drains_.begin() + static_cast<ptrdiff_t>(i));
      done(live_);
    }
  }

  EngineOptions options_;
  std::unique_ptr<StepBackend> backend_;
  std::unique_ptr<Scheduler> scheduler_;
  EngineStats stats_;
  std::atomic<uint64_t> live_{0}, next_id_{1};
  std::atomic<int64_t> last_token_ns_{0};
  std::atomic<bool> draining_{false}, stop_{false}, group_proven_{false};
  std::mutex mutex_;
  std::vector<Command> inbox_;  // guarded by mutex_
  // engine thread only
  std::unordered_map<uint64_t, std::shared_ptr<Listener>> sequences_;
  Outbox outbox_;
  std::unordered_map<uint64_t, CanaryRun> canaries_;
  std::vector<Drain> drains_;
  bool group_up_ = false;
  int64_t not_serving_since_ns_ = 0;
  int64_t canary_started_ns_ = 0;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<EngineLoop> EngineLoop::start(EngineOptions options,
                                              std::unique_ptr<StepBackend> backend) {
  return std::make_unique<EngineLoopImpl>(std::move(options), std::move(backend));
}

}  // namespace bp::rt
