// What a stage handed back, before anybody believes it.
#pragma once
#include <optional>
#include <string>

#include "bp/v1/common.pb.h"
#include "engine/base/error.h"
#include "plugins/sdk/stage_abi.h"

namespace bp::stage_host {

/// What is wrong with the bytes of a result. kProtocol: no valid AttemptResult, or one without an outcome;
/// kTooLarge: an output beyond limits::kStageOutputBytes, named. Any thread.
std::optional<Error> result_fault(bp_bytes bytes);

/// A serialized AttemptResult that says FAILED and why.
std::string failed_result(const Error& error);

/// A plugin that let an exception escape, or (`threw` empty) returned without a result.
Error broken_plugin(const char* name, const std::string& threw);

void fill(v1::ErrorInfo* out, const Error& e);

}  // namespace bp::stage_host
