#include "engine/core/state.h"

#include <algorithm>

namespace bp::core {
namespace {

const std::string kEmpty;

const Value* find_in(const Values& values, std::string_view name) {
  auto it = std::lower_bound(values.begin(), values.end(), name,
                             [](const Value& v, std::string_view n) { return v.name < n; });
  return it != values.end() && it->name == name ? &*it : nullptr;
}

}  // namespace

const Value* find_value(const ValuesPtr& values, std::string_view name) {
  return values ? find_in(*values, name) : nullptr;
}

const StageInstance::Rare& StageInstance::rarely() const {
  static const Rare none;
  return rare ? *rare.get() : none;
}
const std::string& StageInstance::host_id() const { return host ? host.get()->id : kEmpty; }
const v1::ProcessIdentity* StageInstance::process() const {
  return host && host.get()->process.pid() != 0 ? &host.get()->process : nullptr;
}

const RunState::Rare& RunState::rarely() const {
  static const Rare none;
  return rare ? *rare.get() : none;
}

const StageInstance* RunState::find(StageKey key) const {
  // Without mapped stages before it, an instance lies at the index of its stage.
  if (key.stage < stages.size() && stages[key.stage].key == key) return &stages[key.stage];
  auto it = std::lower_bound(stages.begin(), stages.end(), key,
                             [](const StageInstance& s, StageKey k) { return s.key < k; });
  return it != stages.end() && it->key == key ? &*it : nullptr;
}

const StageInstance* RunState::find(std::string_view stage, uint32_t map_index) const {
  if (!workflow) return nullptr;
  const auto index = workflow->find(stage);
  return index ? find(StageKey{*index, map_index}) : nullptr;
}

const std::string& RunState::stage_name(StageKey key) const {
  return key == kRunItself ? kEmpty : workflow->stage(key.stage).name();
}

const Timer* RunState::timer(StageKey key, v1::TimerKind kind) const {
  for (const Timer& t : timers) {
    if (t.key == key && t.kind == kind) return &t;
  }
  return nullptr;
}

const Value* RunState::input(std::string_view name) const {
  return submitted ? find_in(submitted->inputs, name) : nullptr;
}

const std::string* RunState::option(std::string_view name) const {
  if (!submitted) return nullptr;
  for (const auto& [k, v] : submitted->options) {
    if (k == name) return &v;
  }
  return nullptr;
}

bool is_ended(v1::RunState state) {
  return state == v1::RUN_STATE_SUCCEEDED || state == v1::RUN_STATE_STOPPED ||
         state == v1::RUN_STATE_CANCELLED || state == v1::RUN_STATE_FAILED;
}

bool has_live_attempt(const StageInstance& stage) {
  return stage.state == v1::STAGE_STATE_RUNNING || stage.state == v1::STAGE_STATE_READY ||
         stage.state == v1::STAGE_STATE_CANCELLING;
}

}  // namespace bp::core
