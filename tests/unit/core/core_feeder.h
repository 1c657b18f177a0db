// Feeder: applies events to one run with a clock of its own; the workflows that the tests use.
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

/// make -> link -> serve: make and link have something to destroy, serve keeps running.
inline v1::WorkflowDefinition line_workflow() {
  v1::WorkflowDefinition w;
  w.set_name("line");
  w.set_version(1);
  *w.add_stages() = stage_def("check");
  *w.add_stages() = stage_def("make", {"check"});
  *w.add_stages() = stage_def("link", {"make"});
  *w.add_stages() = stage_def("serve", {"link"});
  w.mutable_stages(1)->set_has_destroy(true);
  w.mutable_stages(2)->set_has_destroy(true);
  w.mutable_stages(3)->set_keeps_running(true);
  return w;
}

/// Rows of a whole state, as bytes that can be compared.
inline std::string fingerprint(const RunState& s) {
  const storage::RunRow r = encode_run(s);
  std::string text = r.run_id + "|" + r.name + "|" + std::to_string(r.run_number) + "|" +
                     std::to_string(r.live) + "|" + std::to_string(r.state) + "|" +
                     std::to_string(r.epoch_counter) + "|" + std::to_string(r.created_wall_ms) +
                     "|" + std::to_string(r.updated_wall_ms) + "|" + r.body;
  for (const auto& [key, stage] : s.stages) {
    text += "|" + key.first + std::to_string(stage.state) + encode_stage(s, key).body;
  }
  for (const auto& [key, t] : s.timers) {
    text += "|" + t.stage + "," + std::to_string(t.kind) + "," + std::to_string(t.epoch_counter) +
            "," + std::to_string(t.due_boot_ms) + "," + std::to_string(t.remaining_ms) + "," +
            t.boot_id;
  }
  return text;
}

class Feeder {
 public:
  RunState state;
  Outcome last;
  std::vector<v1::Event> journal;  // what changed something, as journalled
  int64_t now = 1'000'000;

  Outcome& feed(v1::Event e) {
    e.set_boot_ms(now);
    e.set_wall_ms(now + 7);
    last = apply(state, e);
    if (last.changed) {
      REQUIRE(last.batch.events.size() == 1);
      v1::Event stored;
      REQUIRE(stored.ParseFromString(last.batch.events[0].body));
      journal.push_back(stored);
    } else {
      REQUIRE(last.batch.events.empty());
      REQUIRE(last.batch.put_runs.empty());
      REQUIRE(last.batch.put_stages.empty());
    }
    return last;
  }
  Outcome& submit(const v1::WorkflowDefinition& w = line_workflow()) {
    v1::Event e;
    auto* s = e.mutable_submitted();
    s->set_run_id("run-1");
    s->set_run_number(1);
    s->set_name("demo");
    s->set_incarnation(1);
    s->set_boot_id("boot-a");
    (*s->mutable_inputs())["recipe"] = "R";
    *s->mutable_workflow() = w;
    return feed(e);
  }

  const StageInstance& stage(const std::string& name) const { return state.stages.at({name, 0}); }
  v1::StageState at(const std::string& name) const { return stage(name).state; }
  v1::Epoch epoch(const std::string& name) const { return stage(name).body.epoch(); }
};

}  // namespace bp::core
