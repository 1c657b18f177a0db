#include "engine/stage_host/host_loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "bp/v1/stage.pb.h"
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"
#include "engine/stage_host/host_calls.h"
#include "engine/stage_host/plugin_file.h"
#include "engine/stage_host/result_check.h"
#include "engine/stage_host/shared_loop.h"

namespace bp::stage_host {
namespace {

constexpr uint32_t kProtocol = 1;
constexpr size_t kBatchBytes = 1 << 20;
constexpr int64_t kMs = 1'000'000;
constexpr int64_t kQuietMs = 600;  // nothing heard for so long: the daemon may have restarted
constexpr int64_t kHelloMs = 500;
constexpr int64_t kResultMs = 500;
constexpr int64_t kAwayCancelMs = 10'000;  // for a stage to end after the daemon stayed away

class HostLoop {
 public:
  HostLoop(const HostOptions& options, Result<const bp_stage_v1*> plugin, bus::Dealer& dealer,
           Fd event)
      : options_(options),
        plugin_(std::move(plugin)),
        dealer_(dealer),
        wake_(std::move(event)),
        calls_([this] { wake(wake_.get()); }) {
    calls_.set_options(options_of({}));
    if (options_.log_bytes > 0) calls_.limit_logs(options_.log_bytes);
  }

  int run();

 private:
  static void wake(int fd) {
    uint64_t one = 1;
    (void)!::write(fd, &one, sizeof one);
  }
  void send_hello();
  void send(std::vector<v1::StageMessage> messages);
  void send_batch(const v1::StageBatch& batch);
  void receive(const std::string& payload);
  void handle(const v1::StageMessage& message);
  void start_attempt(const v1::AttemptRef& ref, const v1::RunAttempt& attempt);
  void run_stage(std::string ref, std::string attempt);
  void take_result(bp_bytes bytes);
  void flush(int64_t now);
  int64_t next_due(int64_t now) const;
  bool same_attempt(const v1::AttemptRef& ref) const {
    return has_attempt_ && ref.SerializeAsString() == ref_.SerializeAsString();
  }

  const HostOptions& options_;
  Result<const bp_stage_v1*> plugin_;
  bus::Dealer& dealer_;
  Fd wake_;
  HostCalls calls_;
  uint64_t sequence_ = 0;
  int64_t started_ns_ = monotonic_ns();
  int64_t heard_ns_ = 0;  // 0: never
  int64_t hello_ns_ = 0, beat_ns_ = 0, result_ns_ = 0;
  uint32_t hellos_ = 0;
  bool said_beyond_ = false;
  bool acknowledged_ = false;  // the result, or the load error
  bool has_attempt_ = false;
  v1::AttemptRef ref_;
  std::thread stage_;
  std::mutex result_mutex_;
  bool stage_done_ = false;   // guarded by result_mutex_
  v1::AttemptResult result_;  // guarded until stage_done_
  bool has_result_ = false;   // guarded by result_mutex_
  int64_t away_since_ns_ = 0;
};

void HostLoop::send(std::vector<v1::StageMessage> messages) {
  v1::StageBatch batch;
  size_t bytes = 0;
  for (auto& m : messages) {
    m.set_sequence(++sequence_);
    if (has_attempt_) *m.mutable_ref() = ref_;
    bytes += m.ByteSizeLong();
    *batch.add_messages() = std::move(m);
    if (bytes < kBatchBytes) continue;
    bytes = 0;
    send_batch(batch);
    batch.Clear();
  }
  if (batch.messages_size() > 0) send_batch(batch);
}

void HostLoop::send_batch(const v1::StageBatch& batch) {
  auto sent = dealer_.send(batch.SerializeAsString());
  // Lost messages are said again: beats by the next one, the rest by repeat_all().
  if (!sent.ok()) BP_LOG(debug, "message.dropped", "why={}", sent.error().message);
}

void HostLoop::send_hello() {
  v1::StageMessage message;
  *message.mutable_hello() = make_hello(options_, plugin_);
  hello_ns_ = monotonic_ns();
  ++hellos_;
  send({message});
}

void HostLoop::receive(const std::string& payload) {
  auto batch = bus::parse<v1::StageBatch>(payload);
  if (!batch.ok()) {
    BP_LOG(warn, "message.refused", "why={}", batch.error().message);
    return;
  }
  heard_ns_ = monotonic_ns();
  for (const auto& m : batch->messages()) handle(m);
}

void HostLoop::handle(const v1::StageMessage& m) {
  if (m.has_hello_ack()) {
    if (!plugin_.ok()) acknowledged_ = true;
    calls_.set_options(options_of(m.hello_ack()));
    // Every hello but the first was said because the daemon may have restarted since.
    if (hellos_ > 1 && has_attempt_) calls_.repeat_all();
    return;
  }
  if (m.has_run()) {
    if (!has_attempt_ && plugin_.ok()) {
      start_attempt(m.ref(), m.run());
    } else if (!same_attempt(m.ref())) {
      BP_LOG(warn, "attempt.refused", "stage={} attempt={} why=host-has-one", m.ref().stage(),
             m.ref().attempt());
    }
    return;
  }
  if (!same_attempt(m.ref())) {
    BP_LOG(debug, "message.dropped", "why=other-attempt stage={}", m.ref().stage());
    return;
  }
  if (m.has_cancel()) calls_.cancel(m.cancel().deadline_ms());
  if (m.has_node_reply()) calls_.on_node_reply(m.node_reply());
  if (m.has_node_notice()) calls_.on_notice(m.node_notice());
  if (m.has_secret_put_ack()) calls_.on_secret_ack(m.secret_put_ack());
  if (m.has_result_ack()) {
    std::lock_guard lock(result_mutex_);
    if (stage_done_) acknowledged_ = true;
  }
}

void HostLoop::start_attempt(const v1::AttemptRef& ref, const v1::RunAttempt& attempt) {
  has_attempt_ = true;
  ref_ = ref;
  BP_LOG(info, "attempt.started", "run={} stage={} attempt={} epoch={}.{}", ref.run_id(),
         ref.stage(), ref.attempt(), ref.epoch().incarnation(), ref.epoch().counter());
  stage_ =
      std::thread([this, r = ref.SerializeAsString(), a = attempt.SerializeAsString()]() mutable {
        run_stage(std::move(r), std::move(a));
      });
}

void HostLoop::run_stage(std::string ref, std::string attempt) {
  auto take = [](void* self, bp_bytes bytes) { static_cast<HostLoop*>(self)->take_result(bytes); };
  std::string threw;
  try {
    (*plugin_)->run(calls_.table(), bp_bytes{ref.data(), ref.size()},
                    bp_bytes{attempt.data(), attempt.size()}, take, this);
  } catch (const std::exception& e) {
    threw = e.what();
  } catch (...) {
    threw = "an unknown exception";
  }
  {
    std::lock_guard lock(result_mutex_);
    if (!threw.empty() || !has_result_) {
      BP_CHECK(result_.ParseFromString(failed_result(broken_plugin((*plugin_)->name, threw))));
    }
    stage_done_ = true;
  }
  wake(wake_.get());
}

void HostLoop::take_result(bp_bytes bytes) {
  std::lock_guard lock(result_mutex_);
  if (has_result_) return;  // the first one counts
  has_result_ = true;
  if (auto fault = result_fault(bytes)) {
    BP_CHECK(result_.ParseFromString(failed_result(*fault)));
  } else {
    BP_CHECK(result_.ParseFromArray(bytes.data, static_cast<int>(bytes.size)));
  }
}

void HostLoop::flush(int64_t now) {
  if (now - std::max(heard_ns_, started_ns_) > kQuietMs * kMs &&
      now - hello_ns_ >= kHelloMs * kMs) {
    send_hello();
  } else if (!plugin_.ok() && now - hello_ns_ >= kResultMs * kMs) {
    send_hello();
  }
  if (!has_attempt_) return;
  // Looked at before the stage's messages are taken, so that the result comes after all of them.
  std::unique_lock lock(result_mutex_);
  const bool done = stage_done_;
  lock.unlock();
  send(calls_.take_outgoing());
  v1::StageMessage message;
  if (!done) {
    if (now - beat_ns_ < limits::kStageBeatMs * kMs) return;
    beat_ns_ = now;
    message = calls_.liveness();
  } else {
    if (result_ns_ > 0 && now - result_ns_ < kResultMs * kMs) return;
    result_ns_ = now;
    *message.mutable_result() = result_;
    if (const uint64_t beyond = calls_.log_lines_beyond(); beyond > 0 && !said_beyond_) {
      said_beyond_ = true;
      v1::StageMessage log;
      log.mutable_log()->set_level("warn");
      log.mutable_log()->set_text(std::to_string(beyond) + " lines beyond the limit of " +
                                  std::to_string(options_.log_bytes) + " bytes were dropped");
      send({log});
    }
  }
  send({message});
}

int64_t HostLoop::next_due(int64_t now) const {
  int64_t due = now + 500 * kMs;
  due = std::min(
      due, std::max(hello_ns_ + kHelloMs * kMs, std::max(heard_ns_, started_ns_) + kQuietMs * kMs));
  if (has_attempt_) {
    due = std::min(due, beat_ns_ + limits::kStageBeatMs * kMs);
    if (result_ns_ > 0) due = std::min(due, result_ns_ + kResultMs * kMs);
    if (auto at = calls_.beat_due_ns()) due = std::min(due, *at);
  }
  return std::max(due, now + kMs);
}

int HostLoop::run() {
  send_hello();
  for (;;) {
    int64_t now = monotonic_ns();
    flush(now);
    auto readable = bus::wait_any({}, {&dealer_}, {wake_.get()}, Deadline::at_ns(next_due(now)));
    uint64_t count = 0;
    (void)!::read(wake_.get(), &count, sizeof count);
    for (auto payload = dealer_.try_recv(); payload.ok(); payload = dealer_.try_recv())
      receive(*payload);
    if (acknowledged_) break;
    now = monotonic_ns();
    const int64_t quiet_ns = now - std::max(heard_ns_, started_ns_);
    if (!has_attempt_ && now - started_ns_ > options_.idle_limit_ms * kMs) return kExitNoAttempt;
    if (!has_attempt_ || quiet_ns <= options_.away_limit_ms * kMs) {
      away_since_ns_ = 0;
      continue;
    }
    if (away_since_ns_ == 0) {
      away_since_ns_ = now;
      BP_LOG(warn, "daemon.away", "stage={} quiet_ms={}", ref_.stage(), quiet_ns / kMs);
      calls_.cancel(kAwayCancelMs);
    }
    // The result, if any, could not be handed over; the next attempt starts from the same effect
    // key.
    if (now - away_since_ns_ > kAwayCancelMs * kMs) ::_exit(kExitDaemonAway);
  }
  if (stage_.joinable()) stage_.join();
  if (!plugin_.ok()) return kExitPluginLoad;
  BP_LOG(info, "attempt.ended", "stage={} outcome={}", ref_.stage(),
         v1::AttemptResult::Outcome_Name(result_.outcome()));
  return kExitDone;
}

}  // namespace

namespace {

// A supervisor stands for its host: it dies after it, and its pid is the one that the daemon knows.
Result<ProcessId> own_identity() {
  const char* given = std::getenv("BP_HOST_PROCESS");
  int pid = 0;
  unsigned long long ticks = 0;
  if (given && std::sscanf(given, "%d %llu", &pid, &ticks) == 2)
    return ProcessId{pid, ticks, boot_id()};
  return process_identity(::getpid());
}

}  // namespace

v1::HostHello make_hello(const HostOptions& options, const Result<const bp_stage_v1*>& plugin) {
  v1::HostHello hello;
  hello.set_host_id(options.host_id);
  if (auto id = own_identity(); id.ok()) {
    hello.mutable_process()->set_pid(id->pid);
    hello.mutable_process()->set_start_ticks(id->start_ticks);
    hello.mutable_process()->set_boot_id(id->boot_id);
  }
  hello.set_protocol(kProtocol);
  hello.set_shared(options.slots > 0);
  hello.set_slots(options.slots);
  if (plugin.ok()) {
    hello.set_plugin((*plugin)->name);
    hello.set_plugin_version((*plugin)->version);
    hello.set_abi_version((*plugin)->abi_version);
  } else {
    fill(hello.mutable_load_error(), plugin.error());
  }
  return hello;
}

int run_host(const HostOptions& options) {
  auto plugin = load_plugin(options.plugin);
  if (!plugin.ok()) BP_LOG(err, "plugin.refused", "{}", plugin.error().message);
  auto context = bus::Context::start();
  if (!context.ok()) {
    BP_LOG(err, "bus.failed", "{}", context.error().message);
    return kExitFailed;
  }
  auto dealer = bus::Dealer::dial(
      **context, bus::DialOptions{options.endpoint, options.host_id, {}, {}, 0, options.slots > 0});
  if (!dealer.ok()) {
    BP_LOG(err, "daemon.unreachable", "endpoint={} why={}", options.endpoint,
           dealer.error().message);
    return kExitFailed;
  }
  Fd wake(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (options.slots > 0) return run_shared(options, std::move(plugin), **dealer, std::move(wake));
  HostLoop loop(options, std::move(plugin), **dealer, std::move(wake));
  return loop.run();
}

}  // namespace bp::stage_host
