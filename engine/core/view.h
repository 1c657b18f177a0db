// What people see of a run. Progress, nodes and processes are the shell's to add.
#pragma once
#include "bp/v1/control.pb.h"
#include "engine/core/core.h"

namespace bp::core {
/// `boot_ms`: now, for the time left until a retry. Endpoint, model, stand_in and URLs are left
/// empty.
v1::RunView run_view(const RunState& state, int64_t boot_ms);
/// First stage, in the order of the workflow, that is not through (in teardown: the last not
/// destroyed).
std::string current_stage(const RunState& state);
}  // namespace bp::core
