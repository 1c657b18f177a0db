// WorkflowRegistry: the definitions that runs can be started from, by name and version. Registered
// ones lie in the journal (bytes as a blob under their hash, a line of meta each); those that came
// with the program are added at start and registered like any other when their bytes are new.
// Thread: the executor's.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/shell/conductor.h"

namespace bp::shell {

/// Parses JSON of a WorkflowDefinition. kInvalidArgument with line and column.
Result<v1::WorkflowDefinition> parse_definition(const std::string& json);
/// Names of workflow, stages and plugins become file names: 1 to 64 letters, digits, _ and -.
Status check_names(const v1::WorkflowDefinition& definition);

class WorkflowRegistry {
 public:
  explicit WorkflowRegistry(Conductor& conductor) : conductor_(conductor) {}

  /// Reads what is registered, and registers `builtin` ones whose bytes are not. After load().
  Status load(const std::map<std::string, v1::WorkflowDefinition>& builtin, int64_t wall_ms);
  /// Checks, gives it the next version when it names none, and keeps it. The same bytes again are
  /// the same entry. `durable` gets it. kConflict: that version is there with other bytes.
  Status add(v1::WorkflowDefinition definition, int64_t wall_ms,
             std::function<void(const v1::WorkflowEntry&)> durable);
  /// Version 0: the newest. kNotFound names what there is.
  Result<core::Workflow::Ptr> find(const std::string& name, uint32_t version) const;
  /// All, or those of one name and version; oldest first. Definitions where asked for.
  Result<std::vector<v1::WorkflowEntry>> list(const v1::ListWorkflows& query) const;

 private:
  struct Entry {
    v1::WorkflowEntry entry;  // without definition
    core::Workflow::Ptr workflow;
  };
  Result<const Entry*> find_entry(const std::string& name, uint32_t version) const;
  Result<uint32_t> version_for(const v1::WorkflowDefinition& definition) const;

  Conductor& conductor_;
  std::map<std::string, std::map<uint32_t, Entry>> entries_;
};

}  // namespace bp::shell
