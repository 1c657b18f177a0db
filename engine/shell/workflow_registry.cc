#include "engine/shell/workflow_registry.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cctype>

namespace bp::shell {
namespace {

constexpr const char* kMetaPrefix = "workflow/";
constexpr size_t kDefinitionBytes = 1 << 20;
constexpr size_t kVersionsMax = 10'000;  // of one name

bool plain(const std::string& name) {
  return !name.empty() && name.size() <= 64 &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

std::string meta_key(const std::string& name, uint32_t version) {
  return kMetaPrefix + name + "/" + std::to_string(version);
}

}  // namespace

Result<v1::WorkflowDefinition> parse_definition(const std::string& json) {
  if (json.size() > kDefinitionBytes) {
    return Error{ErrorCode::kTooLarge,
                 "a workflow definition of " + std::to_string(json.size()) + " bytes; at most " +
                     std::to_string(kDefinitionBytes),
                 {}};
  }
  v1::WorkflowDefinition w;
  auto status = google::protobuf::util::JsonStringToMessage(json, &w);
  if (!status.ok()) {
    return Error{ErrorCode::kInvalidArgument,
                 "workflow definition: " + std::string(status.message()),
                 "Write it as WorkflowDefinition of proto/bp/v1/journal.proto, in JSON"};
  }
  return w;
}

Status check_names(const v1::WorkflowDefinition& w) {
  auto check = [](const std::string& what, const std::string& name) -> Status {
    if (plain(name)) return {};
    return Error{ErrorCode::kInvalidArgument,
                 what + ": found \"" + name + "\", expected 1 to 64 letters, digits, _ and -",
                 {}};
  };
  BP_TRY(check("name", w.name()));
  for (int i = 0; i < w.stages_size(); ++i) {
    const auto& s = w.stages(i);
    const std::string place = "stages[" + std::to_string(i) + "].";
    BP_TRY(check(place + "name", s.name()));
    if (!s.plugin().empty()) BP_TRY(check(place + "plugin", s.plugin()));
    if (!s.compensation_plugin().empty())
      BP_TRY(check(place + "compensation_plugin", s.compensation_plugin()));
  }
  return {};
}

Status WorkflowRegistry::load(const std::map<std::string, v1::WorkflowDefinition>& builtin,
                              int64_t wall_ms) {
  const auto& meta = conductor_.meta();
  const std::string prefix = kMetaPrefix;
  for (auto it = meta.lower_bound(prefix); it != meta.end() && it->first.starts_with(prefix);
       ++it) {
    v1::WorkflowEntry entry;
    if (!entry.ParseFromString(it->second)) {
      return Error{ErrorCode::kJournal, "meta " + it->first + " cannot be read", {}};
    }
    BP_ASSIGN(auto workflow, conductor_.workflows().find(entry.hash()));
    entry.set_builtin(false);
    Entry& slot = entries_[entry.name()][entry.version()];
    slot.entry = std::move(entry);
    slot.workflow = std::move(workflow);
  }
  for (const auto& [name, definition] : builtin) {
    BP_TRY(check_names(definition));
    BP_ASSIGN(auto workflow, conductor_.workflows().add(definition));
    // A newer release may bring other bytes under the same version: they become the next one.
    v1::WorkflowDefinition mine = definition;
    for (auto& [version, e] : entries_[name]) {
      mine.set_version(version);
      BP_ASSIGN(auto same, conductor_.workflows().add(mine));
      if (same->hash() == e.entry.hash()) workflow = e.workflow;
      mine.set_version(definition.version());
    }
    auto& versions = entries_[name];
    const bool known = std::any_of(versions.begin(), versions.end(), [&](const auto& v) {
      return v.second.entry.hash() == workflow->hash();
    });
    if (!known) {
      if (versions.count(mine.version()) || mine.version() == 0)
        mine.set_version(versions.empty() ? 1 : versions.rbegin()->first + 1);
      BP_TRY(add(mine, wall_ms, [](const v1::WorkflowEntry&) {}));
    }
    for (auto& [version, e] : versions) {
      if (e.entry.hash() == workflow->hash()) e.entry.set_builtin(true);
    }
  }
  return {};
}

Result<uint32_t> WorkflowRegistry::version_for(const v1::WorkflowDefinition& d) const {
  auto it = entries_.find(d.name());
  const bool any = it != entries_.end() && !it->second.empty();
  if (d.version() != 0) return d.version();
  if (any && it->second.size() >= kVersionsMax) {
    return Error{ErrorCode::kTooLarge,
                 "workflow \"" + d.name() + "\" has " + std::to_string(kVersionsMax) + " versions",
                 "Register it under another name"};
  }
  // The newest one again, unnumbered: no new version.
  if (any) {
    v1::WorkflowDefinition same = d;
    same.set_version(it->second.rbegin()->first);
    if (core::Workflow(same).hash() == it->second.rbegin()->second.entry.hash())
      return same.version();
  }
  return any ? it->second.rbegin()->first + 1 : 1;
}

Status WorkflowRegistry::add(v1::WorkflowDefinition definition, int64_t wall_ms,
                             std::function<void(const v1::WorkflowEntry&)> durable) {
  BP_TRY(check_names(definition));
  BP_TRY(core::check_workflow(definition));
  BP_ASSIGN(uint32_t version, version_for(definition));
  definition.set_version(version);
  BP_ASSIGN(auto workflow, conductor_.workflows().add(definition));
  auto& versions = entries_[definition.name()];
  if (auto it = versions.find(version); it != versions.end()) {
    if (it->second.entry.hash() != workflow->hash()) {
      return Error{ErrorCode::kConflict,
                   "workflow " + definition.name() + "@" + std::to_string(version) +
                       " is registered with another definition",
                   "Give it a new version, or none; `bp workflow diff` shows what differs"};
    }
    conductor_.after_durable(
        [entry = it->second.entry, durable = std::move(durable)] { durable(entry); });
    return {};
  }
  Entry e;
  e.workflow = workflow;
  e.entry.set_name(definition.name());
  e.entry.set_version(version);
  e.entry.set_hash(workflow->hash());
  e.entry.set_registered_wall_ms(wall_ms);
  Extra extra;
  extra.meta[meta_key(definition.name(), version)] = e.entry.SerializeAsString();
  extra.blobs[workflow->hash()] = workflow->bytes();
  e.entry.set_current(true);
  const v1::WorkflowEntry shown = e.entry;
  versions[version] = std::move(e);
  conductor_.write(std::move(extra), [shown, durable = std::move(durable)] { durable(shown); });
  return {};
}

Result<const WorkflowRegistry::Entry*> WorkflowRegistry::find_entry(const std::string& name,
                                                                    uint32_t version) const {
  auto it = entries_.find(name.empty() ? "default" : name);
  if (it == entries_.end() || it->second.empty()) {
    std::string names;
    for (const auto& [known, versions] : entries_) names += (names.empty() ? "" : ", ") + known;
    return Error{ErrorCode::kNotFound, "no workflow \"" + name + "\"; there are: " + names,
                 "Register it with `bp workflow register FILE`"};
  }
  if (version == 0) return &it->second.rbegin()->second;
  auto at = it->second.find(version);
  if (at == it->second.end()) {
    return Error{ErrorCode::kNotFound,
                 "workflow \"" + name + "\" has no version " + std::to_string(version) +
                     "; the newest is " + std::to_string(it->second.rbegin()->first),
                 {}};
  }
  return &at->second;
}

Result<core::Workflow::Ptr> WorkflowRegistry::find(const std::string& name,
                                                   uint32_t version) const {
  BP_ASSIGN(const Entry* entry, find_entry(name, version));
  return entry->workflow;
}

Result<std::vector<v1::WorkflowEntry>> WorkflowRegistry::list(const v1::ListWorkflows& q) const {
  if (!q.name().empty()) BP_TRY(find_entry(q.name(), q.version()));
  std::map<std::string, uint64_t> live;
  conductor_.each_run([&](const core::RunState& run) { ++live[run.workflow->hash()]; });
  std::vector<v1::WorkflowEntry> out;
  for (const auto& [name, versions] : entries_) {
    if (!q.name().empty() && name != q.name()) continue;
    for (const auto& [version, e] : versions) {
      if (q.version() != 0 && version != q.version()) continue;
      v1::WorkflowEntry entry = e.entry;
      entry.set_current(version == versions.rbegin()->first);
      entry.set_live_runs(live[entry.hash()]);
      if (q.definitions()) *entry.mutable_definition() = e.workflow->definition();
      out.push_back(std::move(entry));
    }
  }
  return out;
}

}  // namespace bp::shell
