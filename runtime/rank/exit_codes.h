// What bp-rank's exit status tells.
#pragma once

namespace bp::rt {
inline constexpr int kExitDone = 0;         // told to end
inline constexpr int kExitConfig = 2;       // its config or descriptors are unusable
inline constexpr int kExitStart = 10;       // it could not start: address, model file, segments
inline constexpr int kExitNotWelcome = 11;  // the head did not answer, or the group never came together
inline constexpr int kExitLoad = 12;        // it could not load its slice
inline constexpr int kExitStep = 13;        // a step failed here
inline constexpr int kExitGroup = 14;       // communication within the group failed
inline constexpr int kExitLease = 15;       // its lease lapsed: the head was silent
}  // namespace bp::rt
