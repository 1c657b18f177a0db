// Values that flow into stages: inputs of the run, outputs of stages, signals, constants.
#include <algorithm>

#include "engine/core/step.h"

namespace bp::core {
namespace {

using Map = google::protobuf::Map<std::string, std::string>;
using Maybe = Result<std::optional<Bound>>;

std::optional<Bound> bound(const Value* v) {
  if (!v) return std::nullopt;
  return Bound{v->bytes, v->is_blob};
}

// Outputs of a mapped stage, in the order of its list.
std::optional<Bound> joined(const RunState& run, StageIndex stage, std::string_view output) {
  v1::ValueList list;
  for (const StageInstance& s : run.stages) {
    if (s.key.stage != stage || s.surplus) continue;
    if (!s.expanded) return std::nullopt;
    const Value* v = find_value(s.outputs, output);
    list.add_values(v ? v->bytes : std::string());
  }
  return Bound{serialize(list), false};
}

std::optional<Bound> output_of(const RunState& run, std::string_view name) {
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto stage = run.workflow->find(name.substr(0, dot));
  if (!stage) return std::nullopt;
  if (run.workflow->mapped(*stage)) return joined(run, *stage, name.substr(dot + 1));
  const StageInstance* s = run.find(StageKey{*stage, 0});
  return s ? bound(find_value(s->outputs, name.substr(dot + 1))) : std::nullopt;
}

std::optional<Bound> signal_of(const RunState& run, std::string_view name) {
  for (const Signal& s : run.rarely().last_signals) {
    if (s.name == name) return Bound{s.payload, false};
  }
  return std::nullopt;
}

void put(v1::RunAttempt& m, const std::string& name, Bound b, std::vector<PayloadRef>* payloads) {
  if (!b.is_blob) {
    (*m.mutable_inputs())[name] = std::move(b.bytes);
    return;
  }
  CORE_CHECK(payloads != nullptr);
  payloads->push_back({name, std::move(b.bytes)});
}

void put_bound_inputs(const RunState& run, const v1::StageDefinition& d, v1::RunAttempt& m,
                      std::vector<PayloadRef>* payloads) {
  for (const auto& [name, binding] : d.inputs()) {
    Maybe value = resolve(run, binding);
    if (value.ok() && *value) put(m, name, std::move(**value), payloads);
  }
}

// Without bindings: all inputs of the run, and what every other stage has put out so far.
void put_all_inputs(const RunState& run, StageKey key, v1::RunAttempt& m,
                    std::vector<PayloadRef>* payloads) {
  for (const Value& v : run.submitted->inputs) put(m, v.name, *bound(&v), payloads);
  std::string last_joined;
  for (const StageInstance& s : run.stages) {
    if (s.key.stage == key.stage || !s.outputs) continue;
    const std::string& stage = run.stage_name(s.key);
    for (const Value& v : *s.outputs) {
      const std::string name = stage + "." + v.name;
      if (!run.workflow->mapped(s.key.stage)) {
        put(m, name, *bound(&v), payloads);
      } else if (!m.inputs().contains(name)) {
        if (auto all = joined(run, s.key.stage, v.name)) put(m, name, std::move(*all), payloads);
      }
    }
  }
}

}  // namespace

ValuesPtr to_values(const Map& inlined, const Map& blobs) {
  if (inlined.empty() && blobs.empty()) return nullptr;
  auto values = std::make_shared<Values>();
  values->reserve(inlined.size() + blobs.size());
  for (const auto& [name, bytes] : inlined) {
    if (!blobs.contains(name)) values->push_back({name, bytes, false});
  }
  for (const auto& [name, hash] : blobs) values->push_back({name, hash, true});
  std::sort(values->begin(), values->end(),
            [](const Value& a, const Value& b) { return a.name < b.name; });
  return values;
}

Maybe resolve(const RunState& run, const v1::Binding& binding) {
  switch (binding.from_case()) {
    case v1::Binding::kValue:
      return std::optional<Bound>(Bound{binding.value(), false});
    case v1::Binding::kRunInput:
      return bound(run.input(binding.run_input()));
    case v1::Binding::kOutput:
      return output_of(run, binding.output());
    case v1::Binding::kSignal:
      return signal_of(run, binding.signal());
    default:
      return std::optional<Bound>();
  }
}

Status check_inputs(const RunState& run, StageKey key) {
  for (const auto& [name, binding] : run.definition(key).inputs()) {
    if (binding.optional()) continue;
    BP_ASSIGN(const std::optional<Bound> value, resolve(run, binding));
    if (value) continue;
    return Error{ErrorCode::kInvalidArgument,
                 "input \"" + name + "\" of stage " + run.stage_name(key) +
                     " is missing: nothing has given it",
                 "Give the run that input, or mark the binding as optional"};
  }
  return {};
}

v1::RunAttempt run_attempt_message(const RunState& state, StageKey key,
                                   std::vector<PayloadRef>* payloads) {
  const StageInstance* s = state.find(key);
  CORE_CHECK(s != nullptr);
  const v1::StageDefinition& d = state.definition(key);
  v1::RunAttempt m;
  m.set_mode(s->mode);
  m.set_effect_key(effect_key(state, key));
  m.set_deployment_name(state.name);
  m.set_run_number(state.run_number);
  if (d.inputs().empty()) {
    put_all_inputs(state, key, m, payloads);
  } else {
    put_bound_inputs(state, d, m, payloads);
  }
  if (s->item) (*m.mutable_inputs())["item"] = s->item->front().bytes;
  m.set_handle(s->handle());
  m.set_checkpoint(s->checkpoint());
  m.set_run_timeout_ms(d.run_timeout_ms());
  for (const auto& [name, value] : state.submitted->options) (*m.mutable_options())[name] = value;
  for (const auto& [name, value] : d.options()) (*m.mutable_options())[name] = value;
  return m;
}

v1::RunAttempt run_attempt_message(const RunState& state, StageKey key) {
  return run_attempt_message(state, key, nullptr);
}

}  // namespace bp::core
