// A control group (version 2) for one attempt, where this process may make one. Which of its limits the
// kernel enforces depends on the controllers that were delegated; the rest is left to rlimits and to looking.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace bp::supervisor {

/// The daemon's part, once at its start: moves this process into a leaf "daemon" of its own group and hands
/// the controllers on to the leaves beside it. Does nothing where that is not permitted, or where the
/// group is not its own.
void prepare_delegation();

class Cgroup {
 public:
  /// Beside the group of this process when that is a leaf "daemon", else below it. nullopt: not permitted.
  static std::optional<Cgroup> make(const std::string& name);
  bool limit_memory(uint64_t bytes) const;
  /// By the group's own controller, else by one of version 1 that is mounted beside.
  bool limit_processes(uint64_t count);
  bool limit_cpu(uint32_t percent) const;
  /// From the process itself, before it does anything. Async-signal-safe.
  bool enter() const;
  /// Ends everything in it at once; false: this kernel cannot (before 5.14).
  bool kill_all() const;
  void remove() const;
  const std::string& path() const { return path_; }
  /// Times that the kernel ended one of its processes for want of memory.
  uint64_t out_of_memory_kills() const;

 private:
  explicit Cgroup(std::string path) : path_(std::move(path)), procs_(path_ + "/cgroup.procs") {}
  bool write(const char* file, const std::string& text) const;
  std::string path_, procs_;
  std::string old_;        // folder of the version 1 group; empty: none
  std::string old_procs_;
};

}  // namespace bp::supervisor
