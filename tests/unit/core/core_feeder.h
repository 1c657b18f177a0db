// Feeder: applies events to one run with a clock of its own, and holds every invariant after each;
// the workflows that the tests use.
#pragma once
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "engine/core/core.h"

namespace bp::core {

inline v1::StageDefinition stage_def(const std::string& name, std::vector<std::string> after = {}) {
  v1::StageDefinition d;
  d.set_name(name);
  d.set_plugin(name + "_plugin");
  for (auto& a : after) d.add_after(a);
  d.mutable_retry()->set_max_attempts(3);
  d.mutable_retry()->set_first_delay_ms(100);
  d.mutable_retry()->set_multiplier(2);
  d.mutable_retry()->set_max_delay_ms(1000);
  return d;
}
inline v1::StageDefinition shared_def(const std::string& name,
                                      std::vector<std::string> after = {}) {
  v1::StageDefinition d = stage_def(name, std::move(after));
  d.set_isolation(v1::ISOLATION_SHARED);
  return d;
}
inline v1::StageDefinition signal_def(const std::string& name, const std::string& signal,
                                      std::vector<std::string> after = {}) {
  v1::StageDefinition d = stage_def(name, std::move(after));
  d.clear_plugin();
  d.set_wait_signal(signal);
  return d;
}
inline v1::StageDefinition sleep_def(const std::string& name, int64_t ms,
                                     std::vector<std::string> after = {}) {
  v1::StageDefinition d = stage_def(name, std::move(after));
  d.clear_plugin();
  d.set_sleep_ms(ms);
  return d;
}
inline v1::WorkflowDefinition workflow_of(const std::vector<v1::StageDefinition>& stages) {
  v1::WorkflowDefinition w;
  w.set_name("test");
  w.set_version(1);
  for (const auto& d : stages) *w.add_stages() = d;
  return w;
}

/// check -> make -> link -> serve: make and link have something to destroy, serve keeps running.
inline v1::WorkflowDefinition line_workflow() {
  v1::WorkflowDefinition w = workflow_of({stage_def("check"), stage_def("make", {"check"}),
                                          stage_def("link", {"make"}),
                                          stage_def("serve", {"link"})});
  w.set_name("line");
  w.mutable_stages(1)->set_has_destroy(true);
  w.mutable_stages(2)->set_has_destroy(true);
  w.mutable_stages(3)->set_keeps_running(true);
  return w;
}

class Feeder {
 public:
  Workflows workflows;
  RunState state;
  Outcome last;
  std::vector<v1::Event> journal;  // what changed something, as journalled
  int64_t now = 1'000'000;
  bool may_dispatch = true;

  Outcome& feed(v1::Event e) {
    if (e.core_version() == 0) e.set_core_version(kCoreVersion);
    e.set_boot_ms(now);
    e.set_wall_ms(now + 7);
    e.set_may_dispatch(may_dispatch);
    const std::string before = encode_run(state);
    last = apply(state, std::move(e), workflows);
    if (last.changed) {
      REQUIRE(last.record.what_case() != v1::Event::WHAT_NOT_SET);
      journal.push_back(last.record);
    } else {
      REQUIRE(encode_run(state) == before);
    }
    if (!state.run_id.empty()) sound(state);
    return last;
  }
  static void sound(const RunState& run) {
    std::string all;
    for (const std::string& line : broken_invariants(run)) all += line + "\n";
    INFO(all);
    REQUIRE(all.empty());
  }

  static v1::Event submitted(const v1::WorkflowDefinition& w = line_workflow()) {
    v1::Event e;
    auto* s = e.mutable_submitted();
    s->set_run_id("run-1");
    s->set_run_number(1);
    s->set_name("demo");
    s->set_incarnation(1);
    s->set_boot_id("boot-a");
    (*s->mutable_inputs())["recipe"] = "R";
    *s->mutable_workflow() = w;
    return e;
  }
  Outcome& submit(const v1::WorkflowDefinition& w = line_workflow()) { return feed(submitted(w)); }

  StageKey key(const std::string& name, uint32_t map_index = 0) const {
    const StageInstance* s = state.find(name, map_index);
    REQUIRE(s);
    return s->key;
  }
  const StageInstance& stage(const std::string& name, uint32_t map_index = 0) const {
    return *state.find(key(name, map_index));
  }
  v1::StageState at(const std::string& name, uint32_t map_index = 0) const {
    return stage(name, map_index).state;
  }
  v1::Epoch epoch(const std::string& name, uint32_t map_index = 0) const {
    v1::Epoch e;
    e.set_incarnation(stage(name, map_index).epoch.incarnation);
    e.set_counter(stage(name, map_index).epoch.counter);
    return e;
  }
};

}  // namespace bp::core
