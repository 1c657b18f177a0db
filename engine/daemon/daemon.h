// The daemon: the shell in the real world. run() returns the exit status of the program.
#pragma once
#include "engine/daemon/config.h"

namespace bp::daemon {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;    // could not start
inline constexpr int kExitJournal = 74;  // the journal is unusable (EX_IOERR)

/// Blocks until SIGTERM, SIGINT, a client's shutdown, or a fatal error. Leaves deployments running.
int run(const Config& config);

}  // namespace bp::daemon
