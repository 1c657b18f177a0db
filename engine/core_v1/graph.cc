// The workflow as a graph: edges run from each name in `after` to the stage.
#include <algorithm>

#include "engine/core_v1/step.h"

namespace bp::core_v1 {
namespace {

Error bad(const std::string& text) {
  return {ErrorCode::kInvalidArgument, "workflow: " + text, {}};
}

Status check_policy(const v1::StageDefinition& d) {
  const v1::RetryPolicy& p = d.retry();
  const std::string who = "stage \"" + d.name() + "\"";
  if (p.first_delay_ms() < 0 || p.max_delay_ms() < 0)
    return bad(who + " has a negative retry delay");
  if (!(p.multiplier() >= 0 && p.multiplier() <= 100)) {
    return bad(who + ": retry.multiplier must lie in 0..100");
  }
  if (!(p.jitter() >= 0 && p.jitter() <= 1)) return bad(who + ": retry.jitter must lie in 0..1");
  if (d.queue_timeout_ms() < 0 || d.run_timeout_ms() < 0 || d.heartbeat_timeout_ms() < 0 ||
      d.total_timeout_ms() < 0) {
    return bad(who + " has a negative timeout");
  }
  return {};
}

bool valid_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

}  // namespace

std::set<std::string> successors(const v1::WorkflowDefinition& workflow, const std::string& stage) {
  std::set<std::string> found;
  std::vector<std::string> open{stage};
  while (!open.empty()) {
    const std::string from = open.back();
    open.pop_back();
    for (const auto& d : workflow.stages()) {
      const bool follows = std::find(d.after().begin(), d.after().end(), from) != d.after().end();
      if (follows && found.insert(d.name()).second) open.push_back(d.name());
    }
  }
  return found;
}

bool any_live(const RunState& run, const std::set<std::string>& stages) {
  for (const auto& [key, instance] : run.stages) {
    if (has_live_attempt(instance) && stages.count(key.first)) return true;
  }
  return false;
}

std::vector<StageKey> ordered_keys(const RunState& run) {
  std::vector<StageKey> keys;
  for (const auto& d : run.body.workflow().stages()) {
    for (auto it = run.stages.lower_bound({d.name(), 0});
         it != run.stages.end() && it->first.first == d.name(); ++it) {
      keys.push_back(it->first);
    }
  }
  return keys;
}

Status check_workflow(const v1::WorkflowDefinition& workflow) {
  if (workflow.stages().empty()) return bad("it has no stages");
  if (workflow.stages_size() > 256) return bad("it has more than 256 stages");
  std::set<std::string> names;
  for (const auto& d : workflow.stages()) {
    if (!valid_name(d.name())) {
      return bad("stage name \"" + d.name() + "\": expected 1-64 characters of [a-zA-Z0-9_-]");
    }
    if (!valid_name(d.plugin())) return bad("stage \"" + d.name() + "\" names no valid plugin");
    if (!names.insert(d.name()).second) return bad("stage \"" + d.name() + "\" is there twice");
    BP_TRY(check_policy(d));
  }
  for (const auto& d : workflow.stages()) {
    for (const std::string& before : d.after()) {
      if (!names.count(before)) {
        return bad("stage \"" + d.name() + "\" comes after \"" + before +
                   "\", which does not exist");
      }
    }
    if (successors(workflow, d.name()).count(d.name())) {
      return bad("stage \"" + d.name() + "\" waits for itself");
    }
  }
  return {};
}

}  // namespace bp::core_v1
