// What the core asks of the shell. Every action follows from the state, so a lost one is found
// again: DaemonStarted, applied to each live run at start, emits them anew.
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "engine/core/state.h"

namespace bp::core {

/// Names one attempt.
struct Attempt {
  std::string run_id;
  uint64_t run_number = 0;
  std::string stage;
  StageKey key;  // the same, by index (within the workflow that the run pins now)
  uint32_t map_index = 0;
  uint32_t attempt = 0;
  v1::Epoch epoch;
  bool shared = false;       // runs in a shared host: no host id, no process
  std::string host_id;       // empty in DispatchAttempt and of SHARED
  v1::ProcessIdentity host;  // pid 0 while unknown
};

/// Admit it (limits, priority, host) and feed AttemptDispatched with its attempt number and epoch.
struct DispatchAttempt {
  Attempt ref;
  v1::AttemptMode mode;
  std::string plugin;
  uint32_t plugin_version;
};
/// OWN: spawn the stage host of a dispatched attempt and feed AttemptHostStarted (or AttemptLost).
struct StartHost {
  Attempt ref;
  v1::AttemptMode mode;
  std::string plugin;
  uint32_t plugin_version;
};
/// OWN: send run_attempt_message() as soon as the host said hello (again after it reconnects).
struct SendAttempt {
  Attempt ref;
};
/// SHARED: it is RUNNING: send run_attempt_message() to a host of the plugin's pool.
struct SendShared {
  Attempt ref;
  v1::AttemptMode mode;
  std::string plugin;
  uint32_t plugin_version;
};
/// After a start of the daemon. OWN: find the host; alive: wait for its hello, go on; proven dead
/// or never started (no identity, and no process with that host id): feed AttemptLost. SHARED: when
/// no living host of the pool holds it, send it again.
struct ReattachAttempt {
  Attempt ref;
  v1::AttemptMode mode;
  std::string plugin;
  uint32_t plugin_version;
};
/// Tell the attempt to end; at the latest at the deadline a TimerFired(CANCEL) leads to KillHost.
struct CancelAttempt {
  Attempt ref;
  std::string reason;
  int64_t deadline_boot_ms;
  int64_t grace_ms;
};
/// SIGKILL the host, wait for proof of death, feed AttemptLost (SHARED: of all its attempts, with
/// shared_host_died for the others).
struct KillHost {
  Attempt ref;
  std::string reason;
};
/// The result is on record, or fenced: send ResultAck; a host in OWN then exits. Kill it if it does
/// not.
struct AckResult {
  Attempt ref;
};
/// This run has let go of a handle that it had borrowed: feed HandleReturned to the lender.
struct ReturnHandle {
  std::string lender;
  std::string stage;
  uint32_t map_index;
  std::string borrower;
};
/// After a start of the daemon: when `borrower` is not live, feed HandleReturned to this run.
struct CheckBorrower {
  std::string lender;
  std::string stage;
  uint32_t map_index;
  std::string borrower;
};

using Action = std::variant<DispatchAttempt, StartHost, SendAttempt, SendShared, ReattachAttempt,
                            CancelAttempt, KillHost, AckResult, ReturnHandle, CheckBorrower>;

}  // namespace bp::core
