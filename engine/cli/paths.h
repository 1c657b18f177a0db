// Where the daemon of this user keeps its files and its socket (ARCHITECTURE.md, "Files").
#pragma once
#include <string>

#include "engine/base/result.h"

namespace bp::cli {

struct Paths {
  std::string state_dir;
  std::string run_dir;
  std::string endpoint;  // "ipc://RUN_DIR/client.sock" unless given
  std::string pid_file() const { return state_dir + "/daemon.pid"; }
  std::string embedded_file() const { return state_dir + "/embedded.json"; }
  std::string daemon_log() const { return state_dir + "/logs/daemon.log"; }
  /// The path of an ipc endpoint; empty for others.
  std::string socket_path() const;
};

/// Fills what is empty from the environment (BP_STATE_DIR, BP_RUN_DIR, XDG_*, HOME) and makes both
/// folders absolute. kInvalidArgument when nothing says where, or an endpoint is not ipc://.
Result<Paths> resolve_paths(Paths given);

}  // namespace bp::cli
