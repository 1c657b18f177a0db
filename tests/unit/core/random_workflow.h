// Workflows from a seed: lines, and graphs of up to seven stages of all kinds.
#pragma once
#include <random>
#include <string>

#include "tests/unit/core/core_feeder.h"

namespace bp::core {

using Rng = std::mt19937_64;

inline std::string list_of(uint64_t count) {
  v1::ValueList list;
  for (uint64_t i = 0; i < count; ++i) list.add_values("item-" + std::to_string(i));
  return list.SerializeAsString();
}

inline void add_times(v1::StageDefinition& d, Rng& rng) {
  if (rng() % 2) d.set_queue_timeout_ms(500);
  if (rng() % 2) d.set_run_timeout_ms(2000);
  if (rng() % 2) d.set_heartbeat_timeout_ms(1500);
  if (rng() % 4 == 0) d.set_total_timeout_ms(20'000);
  d.mutable_retry()->set_jitter(0.2);
}

inline v1::StageDefinition random_stage(const std::string& name, Rng& rng) {
  const uint64_t dice = rng() % 10;
  if (dice == 0) return signal_def(name, rng() % 2 ? "go" : "on");
  if (dice == 1) return sleep_def(name, 100);
  v1::StageDefinition d = rng() % 2 ? shared_def(name) : stage_def(name);
  if (rng() % 3 == 0) d.set_has_destroy(true);
  if (rng() % 6 == 0) d.set_compensation_plugin("undo");
  if (rng() % 6 == 0) d.add_limit_keys("slots");
  if (rng() % 4 == 0) d.set_owns_handle(true);
  if (dice == 2 || dice == 3) {
    d.mutable_map_over()->set_run_input("list");
    d.set_map_parallel_max(static_cast<uint32_t>(rng() % 3));
  }
  return d;
}

// A line, or a graph of up to seven stages of all kinds.
inline v1::WorkflowDefinition random_workflow(Rng& rng) {
  v1::WorkflowDefinition w = line_workflow();
  if (rng() % 4 != 0) {
    w = workflow_of({});
    const uint64_t count = 2 + rng() % 6;
    for (uint64_t i = 0; i < count; ++i) {
      v1::StageDefinition d = random_stage("s" + std::to_string(i), rng);
      for (uint64_t j = 0; j < i; ++j) {
        if (rng() % 3 == 0) d.add_after("s" + std::to_string(j));
      }
      if (!d.plugin().empty() && !d.after().empty() && rng() % 3 == 0) {
        v1::Binding& b = (*d.mutable_inputs())["in"];
        b.set_output(d.after(0) + ".out");
        b.set_optional(rng() % 8 != 0);
      }
      *w.add_stages() = std::move(d);
    }
    v1::StageDefinition& last = *w.mutable_stages(w.stages_size() - 1);
    const bool may_serve = !last.plugin().empty() && !last.has_map_over();
    if (may_serve && rng() % 2) {
      last.set_isolation(v1::ISOLATION_OWN);
      last.set_keeps_running(true);
    }
    if (rng() % 8 == 0) w.set_run_total_timeout_ms(30'000);
  }
  for (auto& d : *w.mutable_stages()) add_times(d, rng);
  return w;
}

}  // namespace bp::core
