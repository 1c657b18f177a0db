// Migration: a live run goes on under another definition or other plugin versions. What has run
// must look the same in both: its stages, what they wait for, and whether they leave something.
#include <algorithm>
#include <set>

#include "engine/core/step.h"

namespace bp::core {
namespace {

bool has_run(const StageInstance& s) {
  return s.dispatched_once || !s.handle().empty() ||
         (s.state != v1::STAGE_STATE_PENDING && s.state != v1::STAGE_STATE_QUEUED &&
          s.state != v1::STAGE_STATE_SKIPPED);
}

std::set<std::string> names_before(const Workflow& w, StageIndex stage) {
  std::set<std::string> names;
  for (StageIndex before : w.before(stage)) names.insert(w.stage(before).name());
  return names;
}

// Empty: the instance can live on under `to`.
std::string obstacle(const RunState& run, const StageInstance& s, const Workflow& to) {
  const Workflow& from = *run.workflow;
  const std::string& name = run.stage_name(s.key);
  const auto there = to.find(name);
  if (!there) return "stage " + name + " has run and is not in it";
  const v1::StageDefinition& a = from.stage(s.key.stage);
  const v1::StageDefinition& b = to.stage(*there);
  if (names_before(from, s.key.stage) != names_before(to, *there))
    return "stage " + name + " has run and waits for other stages in it";
  if (a.has_map_over() != b.has_map_over())
    return "stage " + name + " has run and is mapped in one of them only";
  if (a.plugin().empty() != b.plugin().empty() || a.wait_signal() != b.wait_signal())
    return "stage " + name + " has run and is of another kind in it";
  if (a.keeps_running() != b.keeps_running())
    return "stage " + name + " has run and keeps running in one of them only";
  if (needs_destroy(run, s) && !to.has_destroy(*there))
    return "stage " + name + " has something to destroy, and would not in it";
  if (!has_live_attempt(s)) return {};
  if (a.plugin() != b.plugin()) return "stage " + name + " runs with another plugin";
  if (from.shared(s.key.stage) != to.shared(*there))
    return "stage " + name + " runs, and its isolation would change";
  return {};
}

// All instances under the indexes of the new workflow.
std::vector<StageInstance> moved(Step& step, const Workflow& to) {
  const RunState& run = step.run;
  const bool ending = run.n.phase == v1::RUN_STATE_STOPPING ||
                      run.n.phase == v1::RUN_STATE_NEEDS_HUMAN;
  std::vector<StageInstance> all;
  for (size_t i = 0; i < to.size(); ++i) {
    const auto index = static_cast<StageIndex>(i);
    const auto from = run.workflow->find(to.stage(index).name());
    const size_t before = all.size();
    for (const StageInstance& s : run.stages) {
      if (!from || s.key.stage != *from) continue;
      if (!has_run(s) && to.mapped(index) != run.workflow->mapped(*from)) continue;
      all.push_back(s);
      all.back().key.stage = index;
    }
    if (all.size() != before) continue;
    StageInstance fresh;
    fresh.key.stage = index;
    fresh.generation = run.n.generation;
    fresh.saved_at = run.applied;
    if (ending) fresh.state = v1::STAGE_STATE_SKIPPED;
    all.push_back(std::move(fresh));
  }
  return all;
}

// Timers of what lives on, under their new indexes; all others go.
std::vector<Timer> moved_timers(const RunState& run, const Workflow& to) {
  std::vector<Timer> all;
  for (Timer t : run.timers) {
    if (t.key != kRunItself) {
      const auto there = to.find(run.stage_name(t.key));
      if (!there) continue;
      t.key.stage = *there;
    }
    all.push_back(t);
  }
  return all;
}

void move_onto(Step& step, const Workflow::Ptr& to) {
  RunState& run = step.run;
  // What was only queued is queued anew, as the new definition has it.
  for (size_t i = 0; i < run.stages.size(); ++i) {
    const StageKey key = run.stages[i].key;
    if (run.stages[i].state != v1::STAGE_STATE_QUEUED) continue;
    step.disarm(key, v1::TIMER_KIND_QUEUE);
    step.set_state(key, v1::STAGE_STATE_PENDING);
  }
  std::vector<Timer> timers = moved_timers(run, *to);
  std::vector<StageInstance> stages = moved(step, *to);
  for (const Timer& t : run.timers) {
    if (!t.frozen) step.out.drop_timers.push_back({t.key, t.kind});
  }
  step.out.put_timers.clear();
  step.all_stages() = std::move(stages);
  step.timers() = std::move(timers);
  run.workflow = to;
  std::erase_if(step.timers(), [&](const Timer& t) {
    return t.key != kRunItself && !run.find(t.key);
  });
  for (const Timer& t : run.timers) {
    if (!t.frozen) step.out.put_timers.push_back(t);
  }
}

template <class Map>
auto pairs_of(const Map& map) {
  std::vector<std::pair<typename Map::key_type, typename Map::mapped_type>> all(map.begin(),
                                                                              map.end());
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace

void on_migrated(Step& step, const v1::RunMigrated& e) {
  RunState& run = step.run;
  if (is_ended(run.n.phase)) return step.refuse(ErrorCode::kConflict, run.name + " has ended");
  Workflow::Ptr to = run.workflow;
  if (!e.workflow_hash().empty()) {
    auto found = step.workflows.find(e.workflow_hash());
    if (!found.ok()) {
      step.out.accepted = std::move(found).error();
      return;
    }
    to = std::move(found).value();
  }
  for (const StageInstance& s : run.stages) {
    if (!has_run(s)) continue;
    const std::string why = obstacle(run, s, *to);
    if (!why.empty()) {
      return step.refuse(ErrorCode::kConflict, run.name + " cannot go on under workflow " +
                                                   to->name() + " version " +
                                                   std::to_string(to->definition().version()) +
                                                   ": " + why);
    }
  }
  Pins pins{pairs_of(e.plugin_versions()), pairs_of(e.plugin_hashes())};
  const bool other_pins = !pins.versions.empty() || !pins.hashes.empty();
  if (to == run.workflow && !other_pins) return;
  step.change();
  if (other_pins) run.pins = step.workflows.share(std::move(pins));
  if (to != run.workflow) move_onto(step, to);
}

}  // namespace bp::core
