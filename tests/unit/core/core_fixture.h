// Driver: one run of the core under test. Feeds events with a clock of its own and keeps what came
// out.
#pragma once
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/core.h"
#include "tests/unit/core/core_feeder.h"

namespace bp::core {

class Driver : public Feeder {
 public:
  Outcome& dispatched(const std::string& name, uint32_t i = 0) {
    v1::Event e;
    auto* d = e.mutable_dispatched();
    d->set_stage(name);
    d->set_map_index(i);
    d->set_attempt(stage(name, i).attempt);
    *d->mutable_epoch() = epoch(name, i);
    d->set_host_id("host-" + std::to_string(epoch(name, i).counter()));
    return feed(e);
  }
  Outcome& host_started(const std::string& name, uint32_t i = 0) {
    v1::Event e;
    auto* h = e.mutable_host_started();
    h->set_stage(name);
    h->set_map_index(i);
    *h->mutable_epoch() = epoch(name, i);
    h->mutable_process()->set_pid(int32_t(1000 + epoch(name, i).counter()));
    return feed(e);
  }
  void start(const std::string& name, uint32_t i = 0) {
    dispatched(name, i);
    host_started(name, i);
  }
  v1::Event ended_event(const std::string& name, std::optional<v1::Epoch> of = {},
                        uint32_t i = 0) {
    v1::Event e;
    e.mutable_ended()->set_stage(name);
    e.mutable_ended()->set_map_index(i);
    *e.mutable_ended()->mutable_epoch() = of ? *of : epoch(name, i);
    return e;
  }
  Outcome& succeed(const std::string& name, const std::string& handle = {},
                   const std::string& output = {}, uint32_t i = 0) {
    v1::Event e = ended_event(name, {}, i);
    e.mutable_ended()->set_succeeded(true);
    e.mutable_ended()->set_handle(handle);
    if (!output.empty()) (*e.mutable_ended()->mutable_outputs())["out"] = output;
    return feed(e);
  }
  Outcome& fail(const std::string& name, const std::string& code = "BP_UNAVAILABLE",
                bool retriable = true) {
    v1::Event e = ended_event(name);
    e.mutable_ended()->mutable_error()->set_code(code);
    e.mutable_ended()->mutable_error()->set_message("it broke");
    e.mutable_ended()->set_retriable(retriable);
    return feed(e);
  }
  Outcome& cancelled(const std::string& name) {
    v1::Event e = ended_event(name);
    e.mutable_ended()->set_cancelled(true);
    return feed(e);
  }
  Outcome& go_back(const std::string& name, const std::string& to) {
    v1::Event e = ended_event(name);
    e.mutable_ended()->set_rewind_to_stage(to);
    e.mutable_ended()->mutable_error()->set_message("a rank is gone");
    return feed(e);
  }
  Outcome& needs_human(const std::string& name, std::vector<std::string> survivors) {
    v1::Event e = ended_event(name);
    e.mutable_ended()->set_needs_human(true);
    e.mutable_ended()->mutable_error()->set_message("cannot confirm");
    for (auto& s : survivors) e.mutable_ended()->add_survivors(s);
    return feed(e);
  }
  Outcome& lost(const std::string& name, bool shared_host_died = false, uint32_t i = 0) {
    v1::Event e;
    e.mutable_lost()->set_stage(name);
    e.mutable_lost()->set_map_index(i);
    *e.mutable_lost()->mutable_epoch() = epoch(name, i);
    e.mutable_lost()->set_reason("signal 9");
    e.mutable_lost()->set_shared_host_died(shared_host_died);
    return feed(e);
  }
  Outcome& ready(const std::string& name) {
    v1::Event e;
    e.mutable_ready()->set_stage(name);
    *e.mutable_ready()->mutable_epoch() = epoch(name);
    (*e.mutable_ready()->mutable_outputs())["endpoint"] = "http://x";
    return feed(e);
  }
  const Timer* timer(const std::string& name, v1::TimerKind kind) const {
    return state.timer(name.empty() ? kRunItself : key(name), kind);
  }
  /// Lets the time of that timer come.
  Outcome& fire(const std::string& name, v1::TimerKind kind) {
    const Timer* t = timer(name, kind);
    REQUIRE(t);
    REQUIRE(!t->frozen);
    now = std::max(now, t->due_boot_ms);
    return feed(fired(name, kind, t->epoch_counter));
  }
  static v1::Event fired(const std::string& name, v1::TimerKind kind, uint64_t counter) {
    v1::Event e;
    e.mutable_timer_fired()->set_stage(name);
    e.mutable_timer_fired()->set_kind(kind);
    e.mutable_timer_fired()->mutable_epoch()->set_counter(counter);
    return e;
  }
  template <class Request>
  Outcome& ask(Request* (v1::Event::*request)()) {
    v1::Event e;
    (e.*request)()->set_by("me");
    return feed(e);
  }
  Outcome& cancel() { return ask(&v1::Event::mutable_cancel_requested); }
  Outcome& stop() { return ask(&v1::Event::mutable_stop_requested); }
  Outcome& retry() { return ask(&v1::Event::mutable_retry_requested); }
  Outcome& daemon_started(uint64_t incarnation, const std::string& boot) {
    v1::Event e;
    e.mutable_daemon_started()->set_incarnation(incarnation);
    e.mutable_daemon_started()->set_boot_id(boot);
    return feed(e);
  }
  Outcome& pause() { return ask(&v1::Event::mutable_pause_requested); }
  Outcome& resume() { return ask(&v1::Event::mutable_resume_requested); }
  Outcome& signal(const std::string& name, const std::string& payload = {}) {
    v1::Event e;
    e.mutable_signal_received()->set_name(name);
    e.mutable_signal_received()->set_payload(payload);
    return feed(e);
  }
  void run_stage(const std::string& name, const std::string& handle = {}, uint32_t i = 0) {
    start(name, i);
    succeed(name, handle, name + "-output", i);
  }
  /// Everything up to serving.
  void serve() {
    submit();
    run_stage("check");
    run_stage("make", "nodes");
    run_stage("link", "ranks");
    start("serve");
    ready("serve");
    REQUIRE(state.n.state == v1::RUN_STATE_SERVING);
  }

  template <class A>
  std::vector<A> actions() const {
    std::vector<A> found;
    for (const Action& a : last.actions) {
      if (auto* one = std::get_if<A>(&a)) found.push_back(*one);
    }
    return found;
  }
  template <class A>
  std::optional<A> action() const {
    auto all = actions<A>();
    if (all.empty()) return std::nullopt;
    return all.front();
  }
};

}  // namespace bp::core
