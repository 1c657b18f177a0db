// Stage hosts as real processes: each in a session of its own below a bp-supervisor, watched by pidfd. A
// ProcessId is the supervisor's: it ends after its host and all that the host may not leave behind.
#pragma once
#include <memory>

#include "engine/shell/world.h"

namespace boost::asio {
class io_context;
}

namespace bp::daemon {

struct ProcessesOptions {
  std::string bin_dir, plugin_dir, run_dir, state_dir, log_level;
  std::string stage_endpoint;
};

class RealProcesses final : public shell::Processes {
 public:
  RealProcesses(boost::asio::io_context& io, ProcessesOptions options);
  ~RealProcesses() override;
  Result<ProcessId> spawn_host(const shell::HostSpec& spec) override;
  std::optional<ProcessId> find_host(const std::string& host_id) override;
  bool alive(const ProcessId& id) override;
  void kill(const ProcessId& id) override;
  void watch(const ProcessId& id, std::function<void(std::string how)> gone) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::daemon
