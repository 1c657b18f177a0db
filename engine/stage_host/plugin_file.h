// A stage plugin's shared object: opened, asked for a table, checked against the ABI versions of this host.
#pragma once
#include <string>

#include "engine/base/result.h"
#include "plugins/sdk/stage_abi.h"

namespace bp::stage_host {

inline constexpr uint32_t kAbiMin = 1;
inline constexpr uint32_t kAbiMax = BP_STAGE_ABI_VERSION;

/// dlopens `file` (an absolute path) and returns its table, which lives as long as the process.
/// kPluginLoad: it cannot be opened, exports no bp_stage_entry, or the ABI versions do not meet; the
/// message names the file and both sides' versions.
Result<const bp_stage_v1*> load_plugin(const std::string& file);

}  // namespace bp::stage_host
