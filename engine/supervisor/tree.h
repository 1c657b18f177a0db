// A process and all that descends from it: who they are, what they use, how to end them.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace bp::supervisor {

struct Usage {
  uint64_t processes = 0;
  uint64_t memory_bytes = 0;  // resident, shared pages counted in each
  uint64_t cpu_ms = 0;        // of the living and of those that they waited for
};

/// Descendants of `root`, without it; looking ends once `at_most` are found: in a fork bomb every look counts.
std::vector<pid_t> descendants(pid_t root, size_t at_most);
Usage usage_of(const std::vector<pid_t>& pids);
/// Sends `signal` to all of them; those that are gone are passed over.
void signal_all(const std::vector<pid_t>& pids, int signal);
/// Bytes that the files below `folder` take on disk; counting stops after `entries_max` of them.
uint64_t disk_bytes(const std::string& folder, size_t entries_max);

}  // namespace bp::supervisor
