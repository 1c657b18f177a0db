// What ties a daemon to its host: one per state folder, its identity on disk, systemd's
// notifications.
#pragma once
#include <string>

#include "engine/base/fd.h"
#include "engine/base/result.h"

namespace bp::daemon {

/// Takes the exclusive flock of `path`; kConflict while another daemon holds it.
Result<Fd> take_lock(const std::string& path);

/// Writes `state` ("READY=1") to $NOTIFY_SOCKET; nothing happens without one.
void notify_systemd(const std::string& state);
/// Half of systemd's watchdog period; 0 when it watches nothing.
int64_t watchdog_ms();

}  // namespace bp::daemon
