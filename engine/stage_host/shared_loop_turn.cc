// What each turn of a shared host's loop does: dispatch, repeat, beat, wait.
#include "engine/stage_host/shared_loop_impl.h"

namespace bp::stage_host {

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
      if (HostCalls* calls = a->calls(); calls && a->state == SharedAttempt::State::kRunning)
        calls->repeat_all();
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
  const auto runs = [](const SharedAttempt* a) {
    return a->state == SharedAttempt::State::kRunning;
  };
  for (; !young_.empty(); young_.pop_front()) {
    auto [a, begun_ns] = young_.front();
    const bool same =
        runs(a) && a->begun_ns == begun_ns;  // else it has ended, or serves another attempt now
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

// The daemon stayed away for too long: stages are told to end, and the process ends with those that
// do not.
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

}  // namespace bp::stage_host
