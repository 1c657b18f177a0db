#include "engine/node/state_store.h"

#include "engine/base/files.h"

namespace bp::node {
namespace {
constexpr uint32_t kVersion = 1;
constexpr size_t kStateBytesMax = 16 << 20;
}  // namespace

Result<StateStore> StateStore::open(const std::string& path, const std::string& node_id,
                                    const std::string& run_id) {
  v1::NodeState state;
  auto bytes = read_file(path, kStateBytesMax);
  if (!bytes.ok() && bytes.error().code != ErrorCode::kNotFound) return std::move(bytes).error();
  if (!bytes.ok()) {
    state.set_version(kVersion);
    state.set_node_id(node_id);
    state.set_run_id(run_id);
    return StateStore(path, std::move(state));
  }
  if (!state.ParseFromString(*bytes) || state.version() != kVersion) {
    return Error{ErrorCode::kCorruptData,
                 path + ": " + std::to_string(bytes->size()) +
                     " bytes that are no agent state of version " + std::to_string(kVersion),
                 "Stop the processes of this folder by hand, then remove the folder"};
  }
  if (state.node_id() != node_id || state.run_id() != run_id) {
    return Error{ErrorCode::kConflict,
                 path + " belongs to node " + state.node_id() + " of run " + state.run_id() +
                     ", not to node " + node_id + " of run " + run_id,
                 {}};
  }
  return StateStore(path, std::move(state));
}

Status StateStore::save() const {
  return write_file_atomic(path_, state_.SerializeAsString(), 0600);
}

v1::KnownProcess* StateStore::find(const std::string& process_key) {
  for (auto& p : *state_.mutable_processes()) {
    if (p.status().process_key() == process_key) return &p;
  }
  return nullptr;
}

void StateStore::erase(const std::string& process_key) {
  auto* all = state_.mutable_processes();
  for (int i = all->size() - 1; i >= 0; --i) {
    if (all->Get(i).status().process_key() == process_key) all->DeleteSubrange(i, 1);
  }
}

v1::KnownSegment* StateStore::find_segment(const std::string& name) {
  for (auto& s : *state_.mutable_segments()) {
    if (s.name() == name) return &s;
  }
  return nullptr;
}

}  // namespace bp::node
