// Driver: one run of the core under test. Feeds events with a clock of its own and keeps what came
// out.
#pragma once
#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/core.h"
#include "engine/core/view.h"
#include "tests/unit/core/core_feeder.h"

namespace bp::core {

class Driver : public Feeder {
 public:
  Outcome& dispatched(const std::string& name) {
    v1::Event e;
    auto* d = e.mutable_dispatched();
    d->set_stage(name);
    d->set_attempt(stage(name).body.attempt());
    *d->mutable_epoch() = epoch(name);
    d->set_host_id("host-" + std::to_string(epoch(name).counter()));
    return feed(e);
  }
  Outcome& host_started(const std::string& name) {
    v1::Event e;
    auto* h = e.mutable_host_started();
    h->set_stage(name);
    *h->mutable_epoch() = epoch(name);
    h->mutable_process()->set_pid(int32_t(1000 + epoch(name).counter()));
    return feed(e);
  }
  void start(const std::string& name) {
    dispatched(name);
    host_started(name);
  }
  v1::Event ended_event(const std::string& name, std::optional<v1::Epoch> of = {}) {
    v1::Event e;
    e.mutable_ended()->set_stage(name);
    *e.mutable_ended()->mutable_epoch() = of ? *of : epoch(name);
    return e;
  }
  Outcome& succeed(const std::string& name, const std::string& handle = {},
                   const std::string& output = {}) {
    v1::Event e = ended_event(name);
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
  Outcome& lost(const std::string& name) {
    v1::Event e;
    e.mutable_lost()->set_stage(name);
    *e.mutable_lost()->mutable_epoch() = epoch(name);
    e.mutable_lost()->set_reason("signal 9");
    return feed(e);
  }
  Outcome& ready(const std::string& name) {
    v1::Event e;
    e.mutable_ready()->set_stage(name);
    *e.mutable_ready()->mutable_epoch() = epoch(name);
    (*e.mutable_ready()->mutable_outputs())["endpoint"] = "http://x";
    return feed(e);
  }
  const storage::TimerRow* timer(const std::string& name, v1::TimerKind kind) const {
    auto it = state.timers.find({{name, 0}, kind});
    return it == state.timers.end() ? nullptr : &it->second;
  }
  /// Lets the time of that timer come.
  Outcome& fire(const std::string& name, v1::TimerKind kind) {
    const storage::TimerRow* t = timer(name, kind);
    REQUIRE(t);
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
  Outcome& cancel() {
    v1::Event e;
    e.mutable_cancel_requested()->set_by("me");
    return feed(e);
  }
  Outcome& stop() {
    v1::Event e;
    e.mutable_stop_requested()->set_by("me");
    return feed(e);
  }
  Outcome& retry() {
    v1::Event e;
    e.mutable_retry_requested()->set_by("me");
    return feed(e);
  }
  Outcome& daemon_started(uint64_t incarnation, const std::string& boot) {
    v1::Event e;
    e.mutable_daemon_started()->set_incarnation(incarnation);
    e.mutable_daemon_started()->set_boot_id(boot);
    return feed(e);
  }
  void run_stage(const std::string& name, const std::string& handle = {}) {
    start(name);
    succeed(name, handle, name + "-output");
  }
  /// Everything up to serving.
  void serve() {
    submit();
    run_stage("check");
    run_stage("make", "nodes");
    run_stage("link", "ranks");
    start("serve");
    ready("serve");
    REQUIRE(state.state == v1::RUN_STATE_SERVING);
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
