#include "engine/core/workflow.h"

#include <algorithm>

#include "engine/base/ids.h"
#include "engine/core/state.h"
#include "engine/core/step.h"

namespace bp::core {
namespace {

// All that can be reached from `from` over `edges_of`, in the order of the definition.
template <class EdgesOf>
std::vector<StageIndex> reach(StageIndex from, size_t size, const EdgesOf& edges_of) {
  std::vector<bool> found(size);
  std::vector<StageIndex> open{from};
  while (!open.empty()) {
    const StageIndex at = open.back();
    open.pop_back();
    for (StageIndex to : edges_of(at)) {
      if (!found[to]) open.push_back(to);
      found[to] = true;
    }
  }
  std::vector<StageIndex> all;
  for (size_t i = 0; i < size; ++i) {
    if (found[i]) all.push_back(static_cast<StageIndex>(i));
  }
  return all;
}

}  // namespace

Workflow::Workflow(v1::WorkflowDefinition definition) : definition_(std::move(definition)) {
  hash_ = content_hash(bytes());
  nodes_.resize(static_cast<size_t>(definition_.stages_size()));
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const v1::StageDefinition& d = definition_.stages(static_cast<int>(i));
    nodes_[i].definition = &d;
    nodes_[i].shared = d.isolation() == v1::ISOLATION_SHARED;
    nodes_[i].has_destroy = d.has_destroy() || !d.compensation_plugin().empty();
    any_keeps_running_ = any_keeps_running_ || d.keeps_running();
    by_name_.emplace(d.name(), static_cast<StageIndex>(i));
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    for (const std::string& name : nodes_[i].definition->after()) {
      const auto before = find(name);
      if (!before) continue;
      nodes_[i].before.push_back(*before);
      nodes_[*before].next.push_back(static_cast<StageIndex>(i));
    }
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const auto at = static_cast<StageIndex>(i);
    nodes_[i].later = reach(at, size(), [&](StageIndex s) { return nodes_[s].next; });
    nodes_[i].earlier = reach(at, size(), [&](StageIndex s) { return nodes_[s].before; });
  }
}

std::string Workflow::bytes() const { return serialize(definition_); }

std::optional<StageIndex> Workflow::find(std::string_view stage) const {
  auto it = by_name_.find(stage);
  if (it == by_name_.end()) return std::nullopt;
  return it->second;
}

bool Workflow::is_later(StageIndex than, StageIndex i) const {
  const auto& all = nodes_[than].later;
  return std::binary_search(all.begin(), all.end(), i);
}

Result<Workflow::Ptr> Workflows::add(const v1::WorkflowDefinition& definition, bool check) {
  if (check) BP_TRY(check_workflow(definition));
  auto made = std::make_shared<const Workflow>(definition);
  return by_hash_.emplace(made->hash(), made).first->second;
}

Result<Workflow::Ptr> Workflows::find(const std::string& hash) {
  auto it = by_hash_.find(hash);
  if (it != by_hash_.end()) return it->second;
  const Error none{ErrorCode::kNotFound, "no workflow with hash " + hash.substr(0, 64), {}};
  if (!load_) return none;
  BP_ASSIGN(const std::string bytes, load_(hash));
  v1::WorkflowDefinition definition;
  if (content_hash(bytes) != hash || !definition.ParseFromString(bytes)) {
    return Error{ErrorCode::kJournal, "the workflow with hash " + hash + " is damaged", {}};
  }
  auto made = std::make_shared<const Workflow>(std::move(definition));
  by_hash_.emplace(hash, made);
  return Workflow::Ptr(std::move(made));
}

std::shared_ptr<const Pins> Workflows::share(Pins pins) {
  std::string key;
  for (const auto& [name, version] : pins.versions) {
    key += name + '=' + std::to_string(version) + ';';
  }
  for (const auto& [name, hash] : pins.hashes) key += name + '#' + hash + ';';
  auto& slot = pins_[key];
  if (!slot) slot = std::make_shared<const Pins>(std::move(pins));
  return slot;
}

void Workflows::drop_unused() {
  std::erase_if(by_hash_, [](const auto& w) { return w.second.use_count() == 1; });
  std::erase_if(pins_, [](const auto& p) { return p.second.use_count() == 1; });
}

}  // namespace bp::core
