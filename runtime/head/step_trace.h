// Where bp-head keeps the trace of its scheduler: one file of bounded size, owner-readable only, for it
// holds prompts. `bp-head --replay FILE` does it all again.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace bp::rt {

/// A writer for EngineOptions::trace that makes `path` anew and takes up to `bytes_max`. kIo, kPermission.
Result<std::function<bool(std::string_view)>> open_step_trace(const std::string& path, uint64_t bytes_max);

/// Replays the trace in `path` and prints what it found; the exit code: 0 it is the same, 1 it is not,
/// 2 it cannot be read.
int replay_step_trace(const std::string& path);

}  // namespace bp::rt
