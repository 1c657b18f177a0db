// Supervisor: the parent of one stage host. Starts it within its limits, waits for it, ends everything that it
// left behind, and writes down how it ended where a daemon finds it that was away meanwhile.
//
// A confined host (one with any limit) takes all that it forked along when it ends. Its cage is what this
// machine permits, said in the first line of the log: a pid namespace and a control group, else the
// supervisor as reaper of orphans. Memory, processes and CPU are bounded by the group's controllers where those
// are delegated; else they, and the work folder always, are looked at every kLookMs. A host without limits may
// leave processes behind (local nodes).
//
// SIGTERM: ends the host as SIGKILL would. When the supervisor itself is killed the kernel takes the host along.
// Thread: one.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/process.h"

namespace bp::supervisor {

struct Limits {  // 0: none
  uint64_t memory_bytes = 0;
  uint64_t disk_bytes = 0;  // of the work folder
  uint32_t processes = 0;
  uint32_t open_files = 0;
  uint32_t cpu_percent = 0;  // 100 is one core
  uint64_t cpu_seconds = 0;
  uint64_t log_bytes = 0;  // of standard output and error; the rest is dropped and counted
  bool any() const {
    return memory_bytes || disk_bytes || processes || open_files || cpu_percent || cpu_seconds || log_bytes;
  }
};

struct Options {
  std::string name;                  // host id
  std::string exit_dir;              // exit_file() in it gets a line: how it ended, unless with status 0
  std::string work_dir;              // made, the host's current folder and TMPDIR, removed at the end
  Limits limits;
  std::vector<std::string> command;  // absolute program, arguments
};

inline constexpr int64_t kLookMs = 50;

/// Runs the command to its end. Returns its exit status, or 128 + signal; 127: it could not be started.
int supervise(const Options& options);

/// Where a supervisor of that identity writes how its host ended.
std::string exit_file(const std::string& exit_dir, const ProcessId& supervisor);

}  // namespace bp::supervisor
