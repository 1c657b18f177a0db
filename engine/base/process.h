// Processes: identity that survives pid reuse, spawning in a session of their own, watching by pidfd.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/result.h"

namespace bp {

/// Names one process for ever: pid, its start time in clock ticks since boot, and the boot.
struct ProcessId {
  pid_t pid = 0;
  uint64_t start_ticks = 0;
  std::string boot_id;
  bool operator==(const ProcessId&) const = default;
};

/// Identity of a living process. kNotFound when there is none (a zombie counts as gone).
Result<ProcessId> process_identity(pid_t pid);
/// True while that very process lives (not a zombie, not a reused pid).
bool process_alive(const ProcessId& id);
/// A pidfd that polls readable when that very process ends. kNotFound when it is gone.
Result<Fd> process_watch(const ProcessId& id);
/// Sends `signal` to that very process; OK when it is already gone.
Status process_signal(const ProcessId& id, int signal);
/// Waits until it is gone; kDeadlineExceeded names it.
Status process_wait_gone(const ProcessId& id, Deadline deadline);

struct SpawnOptions {
  std::string program;                 // absolute path
  std::vector<std::string> args;       // without argv[0]
  std::vector<std::pair<std::string, std::string>> env;  // added to a minimal environment
  bool inherit_env = false;            // start from this process's environment instead
  std::string work_dir;
  std::string log_file;                // stdout and stderr are appended there; empty: inherit
  std::vector<std::pair<int, int>> fds;  // (ours, number in the child), all others are closed
  bool own_session = true;             // setsid: a signal to our group does not reach it
  bool die_with_parent = false;        // PR_SET_PDEATHSIG SIGKILL
  // Called in the parent with the child's identity before the program runs. The program runs only after
  // it returned OK: whoever writes the identity down here can lose no process, even when it is killed
  // at any moment (the waiting child sees the parent gone and ends).
  std::function<Status(const ProcessId&)> before_exec;
};
/// fork + exec; reports an exec failure as an error, not as an exit status.
Result<ProcessId> process_spawn(const SpawnOptions& options);

/// Folder of the running program's own file, for finding its siblings.
std::string program_dir();

}  // namespace bp
