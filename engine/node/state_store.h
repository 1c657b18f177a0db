// StateStore: WORK_DIR/agent.state in memory and on disk. Owned by the agent, used on its thread
// only.
#pragma once
#include <string>

#include "bp/v1/node_state.pb.h"
#include "engine/base/result.h"

namespace bp::node {

class StateStore {
 public:
  /// Reads the file, or begins a new state. kConflict when it belongs to another node or run;
  /// kCorruptData when it is no state of a known version.
  static Result<StateStore> open(const std::string& path, const std::string& node_id,
                                 const std::string& run_id);

  v1::NodeState& state() { return state_; }
  const v1::NodeState& state() const { return state_; }
  /// Durable when it returns OK: act only then. kDiskFull, kIo.
  Status save() const;

  v1::KnownProcess* find(const std::string& process_key);
  void erase(const std::string& process_key);
  v1::KnownSegment* find_segment(const std::string& name);

 private:
  StateStore(std::string path, v1::NodeState state)
      : path_(std::move(path)), state_(std::move(state)) {}
  std::string path_;
  v1::NodeState state_;
};

}  // namespace bp::node
