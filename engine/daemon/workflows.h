// Installed workflows: every *.json of a folder is a WorkflowDefinition in protobuf's JSON form.
#pragma once
#include <map>
#include <string>

#include "bp/v1/journal.pb.h"
#include "engine/base/result.h"

namespace bp::daemon {

/// By the definition's own name. kInvalidArgument names file and fault; kNotFound: no "default"
/// among them.
Result<std::map<std::string, v1::WorkflowDefinition>> load_workflows(const std::string& folder);

}  // namespace bp::daemon
