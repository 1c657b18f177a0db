// What a workflow definition must be to run. The first fault is named with its place.
#include <algorithm>
#include <map>
#include <set>

#include "engine/core/step.h"

namespace bp::core {
namespace {

constexpr int64_t kTimeMaxMs = int64_t{10} * 365 * 24 * 3600 * 1000;

Error bad(const std::string& text) {
  return {ErrorCode::kInvalidArgument, "workflow: " + text, {}};
}

bool valid_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

bool sane_time(int64_t ms) { return ms >= 0 && ms <= kTimeMaxMs; }

class Checker {
 public:
  explicit Checker(const v1::WorkflowDefinition& w) : w_(w) {}

  Status all() {
    BP_TRY(names());
    if (!sane_time(w_.run_total_timeout_ms())) return bad("run_total_timeout_ms is out of range");
    for (const auto& d : w_.stages()) {
      for (const std::string& before : d.after()) {
        if (!by_name_.count(before))
          return bad(who(d) + " comes after \"" + before + "\", which does not exist");
      }
    }
    for (const auto& d : w_.stages()) {
      if (earlier(d).count(d.name())) return bad(who(d) + " waits for itself");
    }
    for (const auto& d : w_.stages()) {
      BP_TRY(policy(d));
      BP_TRY(kind(d));
      BP_TRY(bindings(d));
    }
    return {};
  }

 private:
  using Def = v1::StageDefinition;
  static std::string who(const Def& d) { return "stage \"" + d.name() + "\""; }

  Status names() {
    if (w_.stages().empty()) return bad("it has no stages");
    if (w_.stages_size() > static_cast<int>(kStagesMax)) return bad("it has more than 256 stages");
    for (const auto& d : w_.stages()) {
      if (!valid_name(d.name()))
        return bad("stage name \"" + d.name() + "\": expected 1-64 characters of [a-zA-Z0-9_-]");
      if (!by_name_.emplace(d.name(), &d).second) return bad(who(d) + " is there twice");
    }
    return {};
  }

  std::set<std::string> earlier(const Def& d) const {
    std::set<std::string> found;
    std::vector<const Def*> open{&d};
    while (!open.empty()) {
      const Def* at = open.back();
      open.pop_back();
      for (const std::string& before : at->after()) {
        if (found.insert(before).second) open.push_back(by_name_.at(before));
      }
    }
    return found;
  }

  static Status policy(const Def& d) {
    const v1::RetryPolicy& p = d.retry();
    if (p.first_delay_ms() < 0 || p.max_delay_ms() < 0)
      return bad(who(d) + " has a negative retry delay");
    if (!(p.multiplier() >= 0 && p.multiplier() <= 100))
      return bad(who(d) + ": retry.multiplier must lie in 0..100");
    if (!(p.jitter() >= 0 && p.jitter() <= 1))
      return bad(who(d) + ": retry.jitter must lie in 0..1");
    for (int64_t ms : {d.queue_timeout_ms(), d.run_timeout_ms(), d.heartbeat_timeout_ms(),
                       d.total_timeout_ms(), d.progress_timeout_ms(), d.sleep_ms()}) {
      if (!sane_time(ms)) return bad(who(d) + " has a negative timeout, or one beyond ten years");
    }
    return {};
  }

  static Status kind(const Def& d) {
    const bool plugin = !d.plugin().empty();
    if (plugin && !valid_name(d.plugin())) return bad(who(d) + " names no valid plugin");
    const int kinds = int(plugin) + int(!d.wait_signal().empty()) + int(d.sleep_ms() > 0);
    if (kinds == 0) return bad(who(d) + " names no valid plugin, no signal and no sleep");
    if (kinds > 1) return bad(who(d) + " must be one of plugin, wait_signal, sleep_ms");
    if (!d.compensation_plugin().empty() && !valid_name(d.compensation_plugin()))
      return bad(who(d) + ": compensation_plugin is no valid name");
    if (d.keeps_running() && d.has_map_over())
      return bad(who(d) + ": a stage that keeps running cannot be mapped");
    if (d.keeps_running() && d.isolation() == v1::ISOLATION_SHARED)
      return bad(who(d) + ": a stage that keeps running needs isolation OWN");
    if (!v1::Isolation_IsValid(d.isolation())) return bad(who(d) + ": unknown isolation");
    if (plugin) return {};
    if (d.keeps_running() || d.has_destroy() || !d.compensation_plugin().empty() ||
        d.has_map_over() || !d.inputs().empty() || !d.limit_keys().empty())
      return bad(who(d) + ": only a stage with a plugin has inputs, limits, a map or a teardown");
    return {};
  }

  Status binding(const Def& d, const std::string& place, const v1::Binding& b,
                 const std::set<std::string>& before) const {
    const std::string at = who(d) + ": " + place;
    if (b.from_case() == v1::Binding::FROM_NOT_SET)
      return bad(at + " is bound to nothing: expected value, run_input, output or signal");
    if (b.from_case() == v1::Binding::kRunInput && b.run_input().empty())
      return bad(at + ": run_input is empty");
    if (b.from_case() == v1::Binding::kSignal && b.signal().empty())
      return bad(at + ": signal is empty");
    if (b.from_case() != v1::Binding::kOutput) return {};
    const size_t dot = b.output().find('.');
    if (dot == std::string::npos || dot + 1 == b.output().size())
      return bad(at + ": output \"" + b.output() + "\" is not STAGE.OUTPUT");
    const std::string stage = b.output().substr(0, dot);
    if (!by_name_.count(stage))
      return bad(at + " takes an output of \"" + stage + "\", which does not exist");
    if (!before.count(stage))
      return bad(at + " takes an output of \"" + stage + "\", which does not come before it");
    return {};
  }

  Status bindings(const Def& d) const {
    const std::set<std::string> before = earlier(d);
    for (const auto& [name, b] : d.inputs()) {
      if (name.empty()) return bad(who(d) + " has an input without a name");
      if (d.has_map_over() && name == "item")
        return bad(who(d) + ": input \"item\" is the value of the map");
      BP_TRY(binding(d, "input \"" + name + "\"", b, before));
    }
    if (d.has_map_over()) BP_TRY(binding(d, "map_over", d.map_over(), before));
    return {};
  }

  const v1::WorkflowDefinition& w_;
  std::map<std::string, const Def*> by_name_;
};

}  // namespace

Status check_workflow(const v1::WorkflowDefinition& workflow) { return Checker(workflow).all(); }

}  // namespace bp::core
