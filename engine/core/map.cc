// Map over a list: a mapped stage has one instance that stands for all until its list is known, then
// one per value. After a rewind the list is read again: instances that it no longer has are kept
// for their teardown only (surplus). An empty list leaves the first instance as surplus: the stage
// is through and its outputs are empty lists.
#include "engine/core/step.h"

namespace bp::core {
namespace {

Result<v1::ValueList> list_of(const RunState& run, StageIndex stage) {
  const v1::StageDefinition& d = run.workflow->stage(stage);
  const std::string who = "the list that stage " + d.name() + " maps over ";
  BP_ASSIGN(const std::optional<Bound> bound, resolve(run, d.map_over()));
  if (!bound) {
    if (d.map_over().optional()) return v1::ValueList();
    return Error{ErrorCode::kInvalidArgument, who + "is missing", {}};
  }
  if (bound->is_blob) return Error{ErrorCode::kTooLarge, who + "is larger than 64 KiB", {}};
  v1::ValueList list;
  if (!list.ParseFromString(bound->bytes))
    return Error{ErrorCode::kInvalidArgument, who + "is no ValueList", {}};
  if (list.values_size() > static_cast<int>(kMapInstancesMax)) {
    return Error{ErrorCode::kTooLarge,
                 who + "has " + std::to_string(list.values_size()) + " values; at most " +
                     std::to_string(kMapInstancesMax),
                 {}};
  }
  return list;
}

StageInstance fresh(const Step& step, StageKey key) {
  StageInstance s;
  s.key = key;
  s.generation = step.run.n.generation;
  s.saved_at = step.run.applied;
  return s;
}

}  // namespace

bool expand(Step& step, StageIndex stage) {
  const auto list = list_of(step.run, stage);
  if (!list.ok()) {
    fail_for_good(step, {stage, 0}, make_error(list.error().code, list.error().message));
    return false;
  }
  const auto count = static_cast<uint32_t>(list->values_size());
  step.all_stages();
  for (uint32_t i = 0; i < count; ++i) {
    if (!step.run.find(StageKey{stage, i})) step.insert_stage(fresh(step, {stage, i}));
  }
  for (StageInstance& s : step.all_stages()) {
    if (s.key.stage != stage) continue;
    s.expanded = true;
    s.surplus = s.key.map_index >= count;
    if (s.surplus) {
      s.state = v1::STAGE_STATE_SKIPPED;
      s.item = nullptr;
      s.outputs = nullptr;
      continue;
    }
    if (s.state == v1::STAGE_STATE_SKIPPED) s.state = v1::STAGE_STATE_PENDING;
    s.item = std::make_shared<const Values>(
        Values{{"item", list->values(static_cast<int>(s.key.map_index)), false}});
  }
  return true;
}

}  // namespace bp::core
