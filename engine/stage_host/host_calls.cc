#include "engine/stage_host/host_calls.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>

#include "engine/base/ids.h"
#include "engine/base/log.h"
#include "engine/base/secret.h"

namespace bp::stage_host {
namespace {

constexpr int64_t kAnswerGraceMs = 250;  // so that the daemon's own deadline error arrives first
constexpr size_t kLogLineBytes = 16 << 10;
constexpr int64_t kWaitMaxMs = 1'000'000'000;  // keeps nanoseconds in their type

// Ids of different hosts and of the same host's earlier lives should not meet.
uint64_t next_call_id() {
  static std::atomic<uint64_t> next{std::stoull(random_hex(6), nullptr, 16) << 12};
  return next++;
}

HostCalls* self_of(void* self) { return static_cast<HostCalls*>(self); }

std::chrono::steady_clock::time_point time_point(int64_t ns) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(ns));
}

void merge(v1::AttemptBeat& into, const v1::AttemptBeat& from) {
  if (from.has_progress()) *into.mutable_progress() = from.progress();
  if (!from.checkpoint().empty()) into.set_checkpoint(from.checkpoint());
  if (!from.handle().empty()) into.set_handle(from.handle());
  if (from.ready()) {
    into.set_ready(true);
    *into.mutable_outputs() = from.outputs();
  }
}

}  // namespace

std::shared_ptr<const Options> options_of(const v1::HelloAck& ack) {
  auto options = std::make_shared<Options>(ack.options().begin(), ack.options().end());
  if (const char* folder = std::getenv("BP_WORK_DIR")) options->emplace("work_dir", folder);
  return options;
}

int hand_option(const Options* options, bp_bytes name, void (*take)(void*, bp_bytes), void* arg) {
  if (!options) return 0;
  auto it = options->find(std::string_view(name.data, name.size));
  if (it == options->end()) return 0;
  take(arg, bp_bytes{it->second.data(), it->second.size()});
  return 1;
}

HostCalls::HostCalls(std::function<void()> wake) : wake_(std::move(wake)) {
  table_.size = sizeof table_;
  table_.self = this;
  table_.beat = [](void* s, bp_bytes b) { self_of(s)->beat(b); };
  table_.cancelled = [](void* s, int64_t* left) { return self_of(s)->cancelled(left); };
  table_.node_call = [](void* s, bp_bytes call, void (*take)(void*, bp_bytes), void* arg) {
    return self_of(s)->node_call(call, take, arg);
  };
  table_.node_notice = [](void* s, int64_t wait_ms, void (*take)(void*, bp_bytes), void* arg) {
    return self_of(s)->node_notice(wait_ms, take, arg);
  };
  table_.log = [](void* s, const char* level, bp_bytes text) { self_of(s)->log(level, text); };
  table_.secret_put = [](void* s, const char* name, bp_bytes value) {
    return self_of(s)->secret_put(name, value);
  };
  table_.option = [](void* s, bp_bytes name, void (*take)(void*, bp_bytes), void* arg) {
    return self_of(s)->option(name, take, arg);
  };
  table_.wait = [](void* s, int64_t wait_ms) { return self_of(s)->wait(wait_ms); };
}

void HostCalls::push(v1::StageMessage message) {
  outgoing_.push_back(std::move(message));
}

void HostCalls::beat(bp_bytes bytes) {
  v1::AttemptBeat b;
  if (!b.ParseFromArray(bytes.data, static_cast<int>(bytes.size))) return;
  {
    std::lock_guard lock(mutex_);
    merge(known_, b);
    merge(news_, b);
    has_news_ = true;
    news_is_urgent_ |= b.ready() || !b.checkpoint().empty() || !b.handle().empty();
  }
  wake_();
}

int HostCalls::cancelled(int64_t* deadline_ms) const {
  std::lock_guard lock(mutex_);
  if (cancel_asked_ && deadline_ms) *deadline_ms = Deadline::at_ns(cancel_deadline_ns_).left_ms();
  return cancel_asked_ ? 1 : 0;
}

bool HostCalls::is_cancelled() const { return cancelled(nullptr) != 0; }

int HostCalls::node_call(bp_bytes bytes, void (*take)(void*, bp_bytes), void* arg) {
  PendingCall pending;
  if (!pending.call.ParseFromArray(bytes.data, static_cast<int>(bytes.size))) return 1;
  const int64_t until = monotonic_ns() + (pending.call.deadline_ms() + kAnswerGraceMs) * 1'000'000;
  std::unique_lock lock(mutex_);
  // A stage may still undo things after a cancel; what ends a wait is a cancel that comes during it.
  const bool cancelled_before = cancel_asked_;
  const uint64_t id = next_call_id();
  pending.call.set_call_id(id);
  pending.call.mutable_command()->set_call_id(id);
  v1::StageMessage message;
  *message.mutable_node_call() = pending.call;
  push(std::move(message));
  auto it = calls_.emplace(id, std::move(pending)).first;
  lock.unlock();
  wake_();
  lock.lock();
  changed_.wait_until(lock, time_point(until), [&] {
    return it->second.reply || (cancel_asked_ && !cancelled_before);
  });
  auto reply = std::move(it->second.reply);
  const bool cancelled_now = cancel_asked_ && !cancelled_before;
  calls_.erase(it);
  lock.unlock();
  if (!reply) return cancelled_now ? 2 : 1;
  std::string out = reply->SerializeAsString();
  take(arg, bp_bytes{out.data(), out.size()});
  return 0;
}

int HostCalls::node_notice(int64_t wait_ms, void (*take)(void*, bp_bytes), void* arg) {
  const int64_t until = monotonic_ns() + wait_ms * 1'000'000;
  std::unique_lock lock(mutex_);
  const bool cancelled_before = cancel_asked_;
  changed_.wait_until(lock, time_point(until), [&] {
    return !notices_.empty() || (cancel_asked_ && !cancelled_before);
  });
  if (notices_.empty()) return 0;
  std::string out = notices_.front().SerializeAsString();
  notices_.pop_front();
  lock.unlock();
  take(arg, bp_bytes{out.data(), out.size()});
  return 1;
}

void HostCalls::log(const char* level, bp_bytes text) {
  std::string_view line(text.data, std::min(text.size, kLogLineBytes));
  v1::StageMessage message;
  message.mutable_log()->set_level(level ? level : "info");
  message.mutable_log()->set_text(redact(line));
  message.mutable_log()->set_wall_ms(SystemClock().wall_ms());
  {
    std::lock_guard lock(mutex_);
    if (line.size() > log_left_) {
      log_left_ = 0;
      ++log_beyond_;
      return;
    }
    log_left_ -= line.size();
    log_waiting_bytes_ += line.size();
    while (log_lines_ >= kLogLinesMax || log_waiting_bytes_ > kLogWaitingBytes) {
      auto oldest = std::find_if(outgoing_.begin(), outgoing_.end(), [](const auto& m) { return m.has_log(); });
      if (oldest == outgoing_.end()) break;
      log_waiting_bytes_ -= std::min(log_waiting_bytes_, oldest->log().text().size());
      outgoing_.erase(oldest);
      --log_lines_;
      ++log_lines_dropped_;
    }
    push(std::move(message));
    ++log_lines_;
  }
  wake_();
}

int HostCalls::secret_put(const char* name, bp_bytes value) {
  const int64_t until = monotonic_ns() + kSecretPutMs * 1'000'000;
  const std::string key = name;
  std::unique_lock lock(mutex_);
  PendingSecret& pending = secrets_[key];
  pending.value.assign(value.data, value.size);
  pending.stored = false;
  v1::StageMessage message;
  message.mutable_secret_put()->set_name(key);
  message.mutable_secret_put()->set_value(pending.value);
  push(std::move(message));
  lock.unlock();
  wake_();
  lock.lock();
  changed_.wait_until(lock, time_point(until), [&] { return secrets_[key].stored; });
  const bool stored = secrets_[key].stored;
  secrets_.erase(key);
  return stored ? 0 : 1;
}

int HostCalls::option(bp_bytes name, void (*take)(void*, bp_bytes), void* arg) const {
  std::shared_ptr<const Options> options;
  {
    std::lock_guard lock(mutex_);
    options = options_;
  }
  return hand_option(options.get(), name, take, arg);
}

int HostCalls::wait(int64_t wait_ms) {
  const int64_t until = monotonic_ns() + std::clamp<int64_t>(wait_ms, 0, kWaitMaxMs) * 1'000'000;
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, time_point(until), [&] { return cancel_asked_; });
  return cancel_asked_ ? 1 : 0;
}

void HostCalls::limit_logs(uint64_t bytes) { log_left_ = bytes; }

uint64_t HostCalls::log_lines_beyond() const {
  std::lock_guard lock(mutex_);
  return log_beyond_;
}

void HostCalls::set_options(std::shared_ptr<const Options> options) {
  std::lock_guard lock(mutex_);
  options_ = std::move(options);
}

void HostCalls::cancel(int64_t deadline_ms) {
  {
    std::lock_guard lock(mutex_);
    if (!cancel_asked_) cancel_deadline_ns_ = monotonic_ns() + deadline_ms * 1'000'000;
    cancel_asked_ = true;
  }
  changed_.notify_all();
}

void HostCalls::on_node_reply(const v1::NodeReply& reply) {
  {
    std::lock_guard lock(mutex_);
    auto it = calls_.find(reply.call_id());
    if (it == calls_.end()) return;  // answered before, or nobody waits any more
    it->second.reply = reply.reply();
  }
  changed_.notify_all();
}

void HostCalls::on_notice(const v1::NodeNotice& notice) {
  {
    std::lock_guard lock(mutex_);
    if (notices_.size() >= kNoticesMax) notices_.pop_front();
    notices_.push_back(notice);
  }
  changed_.notify_all();
}

void HostCalls::on_secret_ack(const v1::SecretPutAck& ack) {
  {
    std::lock_guard lock(mutex_);
    auto it = secrets_.find(ack.name());
    if (it == secrets_.end()) return;
    it->second.stored = true;
  }
  changed_.notify_all();
}

std::vector<v1::StageMessage> HostCalls::take_outgoing() {
  std::vector<v1::StageMessage> out;
  std::lock_guard lock(mutex_);
  const int64_t now = monotonic_ns();
  if (has_news_ && (news_is_urgent_ || now - last_beat_ns_ >= kProgressMs * 1'000'000)) {
    v1::StageMessage message;
    *message.mutable_beat() = std::move(news_);
    out.push_back(std::move(message));
    news_.Clear();
    has_news_ = news_is_urgent_ = false;
    last_beat_ns_ = now;
  }
  if (log_lines_dropped_ > 0) {
    v1::StageMessage message;
    message.mutable_log()->set_level("warn");
    message.mutable_log()->set_text(std::to_string(log_lines_dropped_) + " older lines were dropped here");
    out.push_back(std::move(message));
    log_lines_dropped_ = 0;
  }
  for (auto& m : outgoing_) out.push_back(std::move(m));
  outgoing_.clear();
  log_lines_ = log_waiting_bytes_ = 0;
  return out;
}

std::optional<int64_t> HostCalls::beat_due_ns() const {
  std::lock_guard lock(mutex_);
  if (!has_news_) return std::nullopt;
  return news_is_urgent_ ? 0 : last_beat_ns_ + kProgressMs * 1'000'000;
}

void HostCalls::repeat_all() {
  {
    std::lock_guard lock(mutex_);
    news_ = known_;
    has_news_ = news_is_urgent_ = true;
    for (const auto& [id, pending] : calls_) {
      if (pending.reply) continue;
      v1::StageMessage message;
      *message.mutable_node_call() = pending.call;
      push(std::move(message));
    }
    for (const auto& [name, pending] : secrets_) {
      if (pending.stored) continue;
      v1::StageMessage message;
      message.mutable_secret_put()->set_name(name);
      message.mutable_secret_put()->set_value(pending.value);
      push(std::move(message));
    }
  }
  wake_();
}

v1::StageMessage HostCalls::liveness() const {
  v1::StageMessage message;
  std::lock_guard lock(mutex_);
  message.mutable_beat();
  if (known_.has_progress()) *message.mutable_beat()->mutable_progress() = known_.progress();
  return message;
}

}  // namespace bp::stage_host
