#include "engine/stage_host/shared_loop.h"

#include <unistd.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <thread>
#include <unordered_map>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/stage_host/result_check.h"
#include "engine/stage_host/shared_attempt.h"
#include "engine/stage_host/wire.h"
#include "engine/stage_host/worker_pool.h"

namespace bp::stage_host {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kQuietMs = 300;
constexpr int64_t kResultMs = 500;
constexpr int64_t kAwayCancelMs = 10'000;     // for stages to end after the daemon stayed away
constexpr size_t kBatchBytes = 1 << 20;       // a batch that has grown so large is sent
constexpr size_t kRememberedMax = 4096;       // acknowledged attempts, so that a late double is known
constexpr size_t kReceiveMany = 64;           // messages read before results are sent

class SharedLoop final : public SharedHost {
 public:
  SharedLoop(const HostOptions& options, Result<const bp_stage_v1*> plugin, bus::Dealer& dealer, Fd event)
      : options_(options), plugin_(std::move(plugin)), dealer_(dealer), wake_(std::move(event)),
        pool_(std::min(2u, std::max(1u, std::thread::hardware_concurrency())), options.slots,
              [this](SharedAttempt& a) { a.run(**plugin_); }, [this] { ring(); }) {}

  int run();
  bool stages_run() const { return pool_.running() > 0; }

  // SharedHost, any thread.
  void has_news(SharedAttempt& attempt) override;
  void waits(int change) override { pool_.waits(change); }
  std::shared_ptr<const Options> options() const override {
    std::lock_guard lock(mutex_);
    return common_;
  }

 private:
  void ring();
  void receive(std::string_view payload);
  void handle(std::string_view bytes);
  void on_run(std::string_view ref, std::string_view run);
  void on_other(const v1::StageMessage& m);
  void on_ack(uint64_t sequence);
  void acknowledged(SharedAttempt& attempt);
  SharedAttempt* find(const v1::AttemptRef& ref);
  SharedAttempt& fresh();
  void say_hello(int64_t now);
  void say_result(SharedAttempt& attempt, int64_t now);
  void say_messages(SharedAttempt& attempt);
  void append(const SharedAttempt& attempt, const v1::StageMessage& message);
  void flush(bool even_empty);
  void turn(int64_t now);
  void repeat(int64_t now);
  void beat(int64_t now);
  bool give_up(int64_t now);
  int64_t next_due(int64_t now) const;

  const HostOptions& options_;
  Result<const bp_stage_v1*> plugin_;
  bus::Dealer& dealer_;
  Fd wake_;
  std::atomic<bool> rung_{false};
  mutable std::mutex mutex_;
  std::shared_ptr<const Options> common_;   // guarded by mutex_
  std::vector<SharedAttempt*> news_;        // guarded by mutex_

  std::vector<std::unique_ptr<SharedAttempt>> all_;
  std::vector<SharedAttempt*> free_, arrived_, done_;
  std::unordered_map<std::string_view, SharedAttempt*> attempts_;  // by key; not the free ones
  std::unordered_map<uint64_t, SharedAttempt*> unacknowledged_;    // by sequence
  std::deque<uint64_t> said_;              // sequences in the order in which their results were said last
  std::deque<std::pair<SharedAttempt*, int64_t>> young_;  // with begun_ns, in the order of arrival
  std::vector<SharedAttempt*> old_;        // beats are due
  std::deque<SharedAttempt*> remembered_;  // acknowledged
  std::string batch_;
  uint64_t sequence_ = 0;
  size_t held_ = 0;                        // attempts without an acknowledged result
  bool connected_ = false, looking_ = false, repeat_all_ = false;
  int64_t started_ns_ = monotonic_ns(), heard_ns_ = 0, hello_ns_ = 0, sent_ns_ = 0, beat_ns_ = 0;
  int64_t held_ns_ = started_ns_, away_since_ns_ = 0;
  // The last member: its threads use the others.
  WorkerPool pool_;
};

void SharedLoop::ring() {
  if (rung_.exchange(true)) return;
  uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void SharedLoop::has_news(SharedAttempt& attempt) {
  {
    std::lock_guard lock(mutex_);
    if (attempt.news) return;
    attempt.news = true;
    news_.push_back(&attempt);
  }
  ring();
}

void SharedLoop::flush(bool even_empty) {
  if (batch_.empty() && !even_empty) return;
  auto sent = dealer_.send(batch_);
  batch_.clear();
  sent_ns_ = monotonic_ns();
  // What was not sent and counts is said again after the next hello.
  if (!sent.ok() && connected_) BP_LOG(debug, "message.dropped", "why={}", sent.error().message);
  connected_ = sent.ok();
}

void SharedLoop::append(const SharedAttempt& attempt, const v1::StageMessage& message) {
  const auto* field = message.GetReflection()->GetOneofFieldDescriptor(
      message, message.GetDescriptor()->FindOneofByName("body"));
  if (!field) return;
  const auto& body = message.GetReflection()->GetMessage(message, field);
  append_message(batch_, attempt.ref(), ++sequence_, static_cast<uint32_t>(field->number()), body.SerializeAsString());
  if (batch_.size() > kBatchBytes) flush(false);
}

void SharedLoop::say_hello(int64_t now) {
  v1::HostHello hello = make_hello(options_, plugin_);
  for (const auto& [key, attempt] : attempts_) {
    if (attempt->state == SharedAttempt::State::kAcknowledged) continue;
    if (!hello.add_holds()->ParseFromString(attempt->ref())) hello.mutable_holds()->RemoveLast();
  }
  hello_ns_ = now;
  append_message(batch_, {}, ++sequence_, v1::StageMessage::kHelloFieldNumber, hello.SerializeAsString());
  flush(false);
}

void SharedLoop::say_result(SharedAttempt& attempt, int64_t now) {
  if (attempt.calls()) say_messages(attempt);  // what it said before comes before
  if (attempt.sequence == 0) {
    attempt.sequence = ++sequence_;
    unacknowledged_.emplace(attempt.sequence, &attempt);
  }
  attempt.said_ns = now;
  said_.push_back(attempt.sequence);
  append_message(batch_, attempt.ref(), attempt.sequence, v1::StageMessage::kResultFieldNumber, attempt.result());
  if (batch_.size() > kBatchBytes) flush(false);
}

void SharedLoop::say_messages(SharedAttempt& attempt) {
  HostCalls* calls = attempt.calls();
  if (!calls) return;
  for (const auto& message : calls->take_outgoing()) append(attempt, message);
}

void SharedLoop::receive(std::string_view payload) {
  heard_ns_ = monotonic_ns();
  WireReader batch(payload);
  while (auto field = batch.next()) {
    if (field->number == v1::StageBatch::kMessagesFieldNumber && field->is_bytes) {
      handle(field->bytes);
    } else if (field->number == v1::StageBatch::kResultAcksFieldNumber && !field->is_bytes) {
      on_ack(field->value);
    } else if (field->number == v1::StageBatch::kResultAcksFieldNumber) {
      WireReader acks(field->bytes);
      while (auto sequence = acks.varint()) on_ack(*sequence);
    }
  }
  if (batch.failed()) BP_LOG(warn, "message.refused", "why=malformed-batch bytes={}", payload.size());
}

void SharedLoop::handle(std::string_view bytes) {
  std::string_view ref, run;
  bool is_run = false;
  WireReader reader(bytes);
  while (auto field = reader.next()) {
    if (field->number == v1::StageMessage::kRefFieldNumber) ref = field->bytes;
    if (field->number == v1::StageMessage::kRunFieldNumber && field->is_bytes) {
      is_run = true;
      run = field->bytes;
    }
  }
  if (is_run && !reader.failed()) return on_run(ref, run);
  auto message = bus::parse<v1::StageMessage>(bytes);
  if (message.ok()) return on_other(*message);
  BP_LOG(warn, "message.refused", "why={}", message.error().message);
}

SharedAttempt& SharedLoop::fresh() {
  if (free_.empty()) {
    all_.push_back(std::make_unique<SharedAttempt>(*this));
    free_.push_back(all_.back().get());
  }
  SharedAttempt& a = *free_.back();
  free_.pop_back();
  return a;
}

void SharedLoop::on_run(std::string_view ref, std::string_view run) {
  auto key = attempt_key(ref);
  if (!key) {
    BP_LOG(warn, "message.refused", "why=malformed-ref bytes={}", ref.size());
    return;
  }
  if (!plugin_.ok()) return;  // it knows from our hello
  if (auto it = attempts_.find(*key); it != attempts_.end()) {
    // Sent again: the daemon did not hear of it. A result that waits for its ack is said at once.
    if (it->second->state == SharedAttempt::State::kDone) say_result(*it->second, monotonic_ns());
    return;
  }
  SharedAttempt& a = fresh();
  a.begin(std::move(*key), ref, run, monotonic_ns());
  attempts_.emplace(a.key(), &a);
  young_.emplace_back(&a, a.begun_ns);
  arrived_.push_back(&a);
  ++held_;
}

SharedAttempt* SharedLoop::find(const v1::AttemptRef& ref) {
  auto key = attempt_key(ref.SerializeAsString());
  auto it = key ? attempts_.find(*key) : attempts_.end();
  return it == attempts_.end() ? nullptr : it->second;
}

void SharedLoop::on_other(const v1::StageMessage& m) {
  if (m.has_hello_ack()) {
    auto common = options_of(m.hello_ack());
    std::lock_guard lock(mutex_);
    common_ = std::move(common);
    repeat_all_ = true;
    return;
  }
  SharedAttempt* a = find(m.ref());
  if (!a) {
    BP_LOG(debug, "message.dropped", "why=unknown-attempt run={} stage={}", m.ref().run_id(), m.ref().stage());
    return;
  }
  if (m.has_result_ack() && a->state == SharedAttempt::State::kDone) return acknowledged(*a);
  if (m.has_cancel()) a->cancel(m.cancel().deadline_ms());
  HostCalls* calls = a->calls();
  if (!calls) return;
  if (m.has_node_reply()) calls->on_node_reply(m.node_reply());
  if (m.has_node_notice()) calls->on_notice(m.node_notice());
  if (m.has_secret_put_ack()) calls->on_secret_ack(m.secret_put_ack());
}

void SharedLoop::on_ack(uint64_t sequence) {
  auto it = unacknowledged_.find(sequence);
  if (it != unacknowledged_.end()) acknowledged(*it->second);
}

void SharedLoop::acknowledged(SharedAttempt& a) {
  unacknowledged_.erase(a.sequence);
  a.state = SharedAttempt::State::kAcknowledged;
  a.forget();
  --held_;
  held_ns_ = heard_ns_;
  remembered_.push_back(&a);
}

// Takes in what the workers and their stages made since the last turn.
void SharedLoop::turn(int64_t now) {
  pool_.add(arrived_);
  looking_ |= !arrived_.empty();
  arrived_.clear();
  rung_ = false;
  pool_.take_done(done_);
  std::vector<SharedAttempt*> news;
  {
    std::lock_guard lock(mutex_);
    news.swap(news_);
    for (auto* a : news) a->news = false;
  }
  for (auto* a : news) say_messages(*a);
  for (auto* a : done_) {
    a->state = SharedAttempt::State::kDone;
    say_result(*a, now);
  }
}

void SharedLoop::repeat(int64_t now) {
  if (repeat_all_) {
    repeat_all_ = false;
    said_.clear();
    for (auto& [key, a] : attempts_) {
      if (a->state == SharedAttempt::State::kDone) say_result(*a, now);
      if (HostCalls* calls = a->calls(); calls && a->state == SharedAttempt::State::kRunning) calls->repeat_all();
    }
    return;
  }
  while (!said_.empty()) {
    auto it = unacknowledged_.find(said_.front());
    if (it == unacknowledged_.end()) {
      said_.pop_front();
      continue;
    }
    if (now - it->second->said_ns < kResultMs * kMs) break;
    said_.pop_front();
    say_result(*it->second, now);
  }
}

void SharedLoop::beat(int64_t now) {
  constexpr int64_t kBeatNs = limits::kStageBeatMs * kMs;
  const auto runs = [](const SharedAttempt* a) { return a->state == SharedAttempt::State::kRunning; };
  for (; !young_.empty(); young_.pop_front()) {
    auto [a, begun_ns] = young_.front();
    const bool same = runs(a) && a->begun_ns == begun_ns;  // else it has ended, or serves another attempt now
    if (same && now - begun_ns < kBeatNs) break;
    if (!same || a->aged) continue;
    a->aged = true;
    old_.push_back(a);
  }
  while (remembered_.size() > kRememberedMax) {
    SharedAttempt* a = remembered_.front();
    remembered_.pop_front();
    attempts_.erase(a->key());
    a->state = SharedAttempt::State::kFree;
    free_.push_back(a);
  }
  if (now - beat_ns_ < kBeatNs) return;
  beat_ns_ = now;
  std::erase_if(old_, [&](auto* a) { return !(a->aged = runs(a)); });
  for (auto* a : old_) {
    HostCalls* calls = a->calls();
    if (calls) say_messages(*a);
    v1::StageMessage message;
    if (calls) {
      message = calls->liveness();
    } else {
      message.mutable_beat();
    }
    append(*a, message);
  }
}

// The daemon stayed away for too long: stages are told to end, and the process ends with those that do not.
bool SharedLoop::give_up(int64_t now) {
  const int64_t quiet_ns = now - std::max(heard_ns_, started_ns_);
  if (quiet_ns <= options_.away_limit_ms * kMs) {
    away_since_ns_ = 0;
    return false;
  }
  if (away_since_ns_ == 0) {
    away_since_ns_ = now;
    BP_LOG(warn, "daemon.away", "attempts={} quiet_ms={}", held_, quiet_ns / kMs);
    for (auto& [key, a] : attempts_) {
      if (a->state == SharedAttempt::State::kRunning) a->cancel(kAwayCancelMs);
    }
  }
  return pool_.running() == 0 || now - away_since_ns_ > kAwayCancelMs * kMs;
}

int64_t SharedLoop::next_due(int64_t now) const {
  if (!arrived_.empty()) return now;
  if (!connected_) return now + (heard_ns_ == 0 ? 2 : 20) * kMs;
  if (looking_) return now + WorkerPool::kLookMs * kMs;
  int64_t due = now + limits::kStageBeatMs * kMs;
  due = std::min(due, std::max(hello_ns_, std::max(heard_ns_, started_ns_)) + kQuietMs * kMs);
  if (!said_.empty()) due = std::min(due, now + kResultMs * kMs / 4);
  for (const auto* a : old_) {
    const HostCalls* calls = a->calls();
    if (auto at = calls ? calls->beat_due_ns() : std::nullopt) due = std::min(due, *at);
  }
  return std::max(due, now + kMs);
}

int SharedLoop::run() {
  for (;;) {
    int64_t now = monotonic_ns();
    turn(now);
    repeat(now);
    beat(now);
    const int64_t quiet_ns = now - std::max({heard_ns_, hello_ns_, started_ns_});
    const bool was_connected = connected_;
    flush(!connected_ || now - sent_ns_ >= limits::kStageBeatMs * kMs);
    if (connected_ && (!was_connected || quiet_ns > kQuietMs * kMs)) say_hello(now);
    if (looking_) looking_ = pool_.look();
    const auto ready = bus::wait_any({}, {&dealer_}, {wake_.get()}, Deadline::at_ns(next_due(now)));
    if (!ready.empty() && ready.back() == 1) {
      uint64_t count = 0;
      (void)!::read(wake_.get(), &count, sizeof count);
    }
    size_t read = 0;
    for (auto payload = dealer_.try_recv(); payload.ok(); payload = dealer_.try_recv()) {
      receive(*payload);
      if (++read >= kReceiveMany) break;
    }
    now = monotonic_ns();
    if (give_up(now)) return held_ > 0 ? kExitDaemonAway : kExitDone;
    if (!plugin_.ok() && heard_ns_ > 0) return kExitPluginLoad;
    if (held_ == 0 && now - held_ns_ > options_.idle_limit_ms * kMs) return kExitNoAttempt;
  }
}

}  // namespace

int run_shared(const HostOptions& options, Result<const bp_stage_v1*> plugin, bus::Dealer& dealer, Fd wake) {
  SharedLoop loop(options, std::move(plugin), dealer, std::move(wake));
  const int status = loop.run();
  BP_LOG(info, "host.ended", "status={}", status);
  if (loop.stages_run()) ::_exit(status);
  return status;
}

}  // namespace bp::stage_host
