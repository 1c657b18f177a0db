#include "engine/stage_host/shared_attempt.h"

#include <exception>

#include "engine/stage_host/result_check.h"

namespace bp::stage_host {
namespace {

constexpr size_t kKeptBytes = 8 << 10;  // larger buffers are given back

void keep_small(std::string& s) {
  if (s.capacity() > kKeptBytes) std::string().swap(s);
}

}  // namespace

// The C table: cheap questions are answered here, the rest goes to HostCalls.
struct SharedAttempt::Table {
  static SharedAttempt& of(void* s) { return *static_cast<SharedAttempt*>(s); }
  static const bp_stage_host_v1& calls(void* s) { return *of(s).need_calls().table(); }

  static void beat(void* s, bp_bytes b) {
    const auto& t = calls(s);
    t.beat(t.self, b);
  }
  static int cancelled(void* s, int64_t* deadline_ms) {
    SharedAttempt& a = of(s);
    if (!a.cancelled_.load(std::memory_order_acquire)) return 0;
    if (deadline_ms) {
      std::lock_guard lock(a.mutex_);
      *deadline_ms = Deadline::at_ns(a.cancel_deadline_ns_).left_ms();
    }
    return 1;
  }
  static int node_call(void* s, bp_bytes call, void (*take)(void*, bp_bytes), void* arg) {
    const auto& t = calls(s);
    of(s).host_.waits(+1);
    const int rc = t.node_call(t.self, call, take, arg);
    of(s).host_.waits(-1);
    return rc;
  }
  static int node_notice(void* s, int64_t wait_ms, void (*take)(void*, bp_bytes), void* arg) {
    const auto& t = calls(s);
    of(s).host_.waits(+1);
    const int rc = t.node_notice(t.self, wait_ms, take, arg);
    of(s).host_.waits(-1);
    return rc;
  }
  static void log(void* s, const char* level, bp_bytes text) {
    const auto& t = calls(s);
    t.log(t.self, level, text);
  }
  static int secret_put(void* s, const char* name, bp_bytes value) {
    const auto& t = calls(s);
    of(s).host_.waits(+1);
    const int rc = t.secret_put(t.self, name, value);
    of(s).host_.waits(-1);
    return rc;
  }
  static int option(void* s, bp_bytes name, void (*take)(void*, bp_bytes), void* arg) {
    return hand_option(of(s).host_.options().get(), name, take, arg);
  }
  static int wait(void* s, int64_t wait_ms) {
    if (of(s).cancelled_) return 1;
    const auto& t = calls(s);
    of(s).host_.waits(+1);
    const int rc = t.wait(t.self, wait_ms);
    of(s).host_.waits(-1);
    return rc;
  }
};

SharedAttempt::SharedAttempt(SharedHost& host) : host_(host) {
  table_ = {sizeof table_, this, &Table::beat, &Table::cancelled, &Table::node_call, &Table::node_notice,
            &Table::log, &Table::secret_put, &Table::option, &Table::wait};
}

void SharedAttempt::begin(std::string key, std::string_view ref, std::string_view run, int64_t now_ns) {
  key_ = std::move(key);
  ref_.assign(ref);
  run_.assign(run);
  has_result_ = false;
  cancelled_ = false;
  state = State::kRunning;
  sequence = 0;
  begun_ns = now_ns;
  said_ns = 0;
}

void SharedAttempt::forget() {
  std::lock_guard lock(mutex_);
  calls_ = nullptr;
  owned_.reset();
  result_.clear();
  keep_small(result_);
}

HostCalls& SharedAttempt::need_calls() {
  if (HostCalls* made = calls()) return *made;
  std::lock_guard lock(mutex_);
  if (!owned_) {
    owned_ = std::make_unique<HostCalls>([this] { host_.has_news(*this); });
    if (cancelled_) owned_->cancel(Deadline::at_ns(cancel_deadline_ns_).left_ms());
    calls_.store(owned_.get(), std::memory_order_release);
  }
  return *owned_;
}

void SharedAttempt::cancel(int64_t deadline_ms) {
  std::lock_guard lock(mutex_);
  if (!cancelled_) cancel_deadline_ns_ = monotonic_ns() + deadline_ms * 1'000'000;
  cancelled_.store(true, std::memory_order_release);
  if (owned_) owned_->cancel(deadline_ms);
}

void SharedAttempt::take(bp_bytes bytes, const char* plugin) {
  std::lock_guard lock(mutex_);
  if (has_result_) return;  // the first one counts
  has_result_ = true;
  auto fault = result_fault(bytes);
  if (fault) {
    result_ = failed_result(std::move(*fault).with_context(std::string("plugin ") + plugin));
  } else {
    result_.assign(bytes.data, bytes.size);
  }
}

void SharedAttempt::run(const bp_stage_v1& plugin) {
  struct Taker {
    SharedAttempt& attempt;
    const char* plugin;
  } taker{*this, plugin.name};
  std::string threw;
  try {
    plugin.run(&table_, bp_bytes{ref_.data(), ref_.size()}, bp_bytes{run_.data(), run_.size()},
               [](void* arg, bp_bytes bytes) {
                 auto& t = *static_cast<Taker*>(arg);
                 t.attempt.take(bytes, t.plugin);
               },
               &taker);
  } catch (const std::exception& e) {
    threw = *e.what() ? e.what() : "an exception without a message";
  } catch (...) {
    threw = "an unknown exception";
  }
  if (!threw.empty() || !has_result_) result_ = failed_result(broken_plugin(plugin.name, threw));
  run_.clear();
  keep_small(run_);
}

}  // namespace bp::stage_host
