// What bp-head is told in fd 3, checked.
#pragma once
#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"

namespace bp::rt {

/// Reads and checks a HeadConfig from a descriptor (a sealed memfd). kInvalidArgument names the
/// field; kProtocol when the bytes are none.
Result<v1::HeadConfig> read_head_config(int fd);

}  // namespace bp::rt
