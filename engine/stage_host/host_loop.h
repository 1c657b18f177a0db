// HostLoop: one attempt of one stage, from HostHello to the acknowledged result. Owns the socket to the
// daemon (this thread) and the stage's thread.
//
// The daemon may go away and come back at any time: the stage runs on, the host says hello every half second
// while it hears nothing, and repeats whatever the daemon may have missed once it answers.
#pragma once
#include <cstdint>
#include <string>

#include "bp/v1/stage.pb.h"
#include "engine/base/result.h"
#include "plugins/sdk/stage_abi.h"

namespace bp::stage_host {

struct HostOptions {
  std::string plugin;               // absolute path of the .so
  std::string endpoint;             // ipc://...
  std::string host_id;
  int64_t away_limit_ms = 3'600'000;  // without a word from the daemon the attempt is ended
  int64_t idle_limit_ms = 60'000;     // without an attempt the host ends
  uint64_t log_bytes = 0;             // of an attempt's log lines; 0: no limit
  uint32_t slots = 0;                 // shared: attempts at a time; 0: one attempt in its life
};

inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitPluginLoad = 4;
inline constexpr int kExitNoAttempt = 5;
inline constexpr int kExitDaemonAway = 6;

/// HostHello of this process: identity, plugin or why it was refused.
v1::HostHello make_hello(const HostOptions& options, const Result<const bp_stage_v1*>& plugin);

/// Loads the plugin, runs the attempt that the daemon sends, and returns the exit code of the program.
int run_host(const HostOptions& options);

}  // namespace bp::stage_host
