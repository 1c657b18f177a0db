#include "engine/base/build.h"

namespace bp {
const char* build_id() { return BP_BUILD_ID; }
}  // namespace bp
