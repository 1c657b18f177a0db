#include "plugins/sdk/harness.h"

#include <condition_variable>
#include <mutex>

namespace bp::sdk {

v1::NodeCommandReply node_error(ErrorCode code, const std::string& message) {
  v1::NodeCommandReply r;
  r.mutable_error()->set_code(std::string(error_name(code)));
  r.mutable_error()->set_message(message);
  return r;
}

v1::AttemptBeat Recorded::merged() const {
  v1::AttemptBeat all;
  for (const auto& b : beats) {
    if (b.has_progress()) *all.mutable_progress() = b.progress();
    if (!b.checkpoint().empty()) all.set_checkpoint(b.checkpoint());
    if (!b.handle().empty()) all.set_handle(b.handle());
    if (b.ready()) {
      all.set_ready(true);
      *all.mutable_outputs() = b.outputs();
    }
  }
  return all;
}

struct StageHarness::Impl {
  bp_stage_host_v1 table{};
  ScriptedNode node;
  mutable std::mutex mutex;
  std::mutex node_mutex;
  std::condition_variable changed;
  bool cancel_asked = false;
  std::deque<v1::NodeNotice> notices;
  Recorded recorded;

  static Impl& of(void* self) { return *static_cast<Impl*>(self); }

  int node_call(bp_bytes bytes, void (*take)(void*, bp_bytes), void* arg) {
    v1::NodeCall call;
    if (!call.ParseFromArray(bytes.data, static_cast<int>(bytes.size))) return 1;
    {
      std::lock_guard lock(mutex);
      recorded.calls.push_back(call);
    }
    if (!node) return 1;
    std::lock_guard lock(node_mutex);
    std::string reply = node(call.node_id(), call.command()).SerializeAsString();
    take(arg, bp_bytes{reply.data(), reply.size()});
    return 0;
  }

  int node_notice(int64_t wait_ms, void (*take)(void*, bp_bytes), void* arg) {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, std::chrono::milliseconds(wait_ms),
                     [&] { return !notices.empty() || cancel_asked; });
    if (notices.empty()) return 0;
    std::string bytes = notices.front().SerializeAsString();
    notices.pop_front();
    lock.unlock();
    take(arg, bp_bytes{bytes.data(), bytes.size()});
    return 1;
  }
};

StageHarness::StageHarness() : impl_(std::make_unique<Impl>()) {
  ref.set_run_id("r-test");
  ref.set_stage("test");
  ref.set_attempt(1);
  ref.mutable_epoch()->set_incarnation(1);
  ref.mutable_epoch()->set_counter(1);
  attempt.set_mode(v1::ATTEMPT_MODE_APPLY);
  attempt.set_effect_key("r-test/test/0/1");
  attempt.set_deployment_name("test");
  attempt.set_run_number(1);
  auto& t = impl_->table;
  t.size = sizeof t;
  t.self = impl_.get();
  t.beat = [](void* s, bp_bytes b) {
    v1::AttemptBeat beat;
    if (!beat.ParseFromArray(b.data, static_cast<int>(b.size))) return;
    std::lock_guard lock(Impl::of(s).mutex);
    Impl::of(s).recorded.beats.push_back(beat);
  };
  t.cancelled = [](void* s, int64_t* left) {
    std::lock_guard lock(Impl::of(s).mutex);
    if (left) *left = 1000;
    return Impl::of(s).cancel_asked ? 1 : 0;
  };
  t.node_call = [](void* s, bp_bytes c, void (*take)(void*, bp_bytes), void* arg) {
    return Impl::of(s).node_call(c, take, arg);
  };
  t.node_notice = [](void* s, int64_t wait_ms, void (*take)(void*, bp_bytes), void* arg) {
    return Impl::of(s).node_notice(wait_ms, take, arg);
  };
  t.log = [](void* s, const char* level, bp_bytes text) {
    std::lock_guard lock(Impl::of(s).mutex);
    Impl::of(s).recorded.logs.push_back(std::string(level) + ": " + std::string(text.data, text.size));
  };
  t.secret_put = [](void* s, const char* name, bp_bytes value) {
    std::lock_guard lock(Impl::of(s).mutex);
    Impl::of(s).recorded.secrets[name] = std::string(value.data, value.size);
    return 0;
  };
}

StageHarness::~StageHarness() = default;

v1::AttemptResult StageHarness::run(Stage& stage) {
  impl_->node = node;
  std::string r = ref.SerializeAsString(), a = attempt.SerializeAsString();
  v1::AttemptResult result;
  run_attempt(
      stage, &impl_->table, bp_bytes{r.data(), r.size()}, bp_bytes{a.data(), a.size()},
      [](void* arg, bp_bytes b) {
        BP_CHECK(static_cast<v1::AttemptResult*>(arg)->ParseFromArray(b.data, static_cast<int>(b.size)));
      },
      &result);
  return result;
}

void StageHarness::cancel() {
  std::lock_guard lock(impl_->mutex);
  impl_->cancel_asked = true;
  impl_->changed.notify_all();
}

void StageHarness::notify(const v1::NodeNotice& notice) {
  std::lock_guard lock(impl_->mutex);
  impl_->notices.push_back(notice);
  impl_->changed.notify_all();
}

Recorded StageHarness::recorded() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->recorded;
}

}  // namespace bp::sdk
