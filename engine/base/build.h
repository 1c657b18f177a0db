// Which build this is: peers of one deployment must be of the same one.
#pragma once

namespace bp {
/// "0.1.0+3c159ce" (release and commit), or the release alone when built outside a git tree.
const char* build_id();
}  // namespace bp
