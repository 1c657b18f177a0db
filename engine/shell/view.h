// RunView: what people see of a run. Pure, from the run's state and what is known about its nodes.
#pragma once
#include <functional>
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/core/core.h"
#include "engine/shell/nodes.h"

namespace bp::shell {

struct ViewInputs {
  const core::RunState& run;
  std::vector<const Node*> nodes;
  std::function<const v1::Progress*(const core::StageInstance&)> progress;
  int64_t boot_ms = 0;
};
v1::RunView make_view(const ViewInputs& in);
/// What a list shows of a run that has ended.
v1::RunView make_view(const storage::EndedRow& row);

/// Text of a RunState for people: "serving".
std::string state_text(v1::RunState state);

}  // namespace bp::shell
