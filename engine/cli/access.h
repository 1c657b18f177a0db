// The binary client protocol of bp-head, from the side of a client: HeadRequest and HeadReply over
// CURVE on the recipe's rayclient_server_port.
#pragma once
#include <functional>
#include <string_view>

#include "bp/v1/control.pb.h"
#include "bp/v1/rank.pb.h"
#include "engine/cli/generate.h"

namespace bp::cli {

/// One chat completion, streamed. `on_reply` gets each reply; when it returns false, or after 120 s
/// without one, the request is cancelled. kUnavailable: nobody listens there, or the head refused;
/// kDeadlineExceeded names the endpoint. Blocks the caller's thread.
Result<Generated> generate_binary(const v1::Access& access, const GenerateOptions& options,
                                  const std::function<bool(const v1::GenerateReply&)>& on_reply);

}  // namespace bp::cli
