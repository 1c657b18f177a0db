#include "engine/daemon/real_processes.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <filesystem>

#include "engine/base/files.h"
#include "engine/base/log.h"

namespace bp::daemon {
namespace {

// Reaps it when it is a child of ours, and says how it ended.
std::string reap(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, WNOHANG) != pid) return "it ended";
  if (WIFSIGNALED(status)) {
    return "killed by signal " + std::to_string(WTERMSIG(status)) + " (" +
           strsignal(WTERMSIG(status)) + ")";
  }
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

bool holds_argument(const std::string& cmdline, const std::string& option,
                    const std::string& value) {
  const std::string wanted = option + '\0' + value + '\0';
  return cmdline.find('\0' + wanted) != std::string::npos;
}

}  // namespace

struct RealProcesses::Impl {
  Impl(boost::asio::io_context& i, ProcessesOptions o) : io(i), options(std::move(o)) {}
  boost::asio::io_context& io;
  ProcessesOptions options;
};

RealProcesses::RealProcesses(boost::asio::io_context& io, ProcessesOptions options)
    : impl_(std::make_unique<Impl>(io, std::move(options))) {}
RealProcesses::~RealProcesses() = default;

Result<ProcessId> RealProcesses::spawn_host(const shell::HostSpec& spec) {
  const auto& o = impl_->options;
  const std::string plugin = o.plugin_dir + "/" + spec.plugin + ".so";
  if (::access(plugin.c_str(), R_OK) != 0) {
    return Error{ErrorCode::kNotFound, "no plugin " + plugin,
                 "Install it, or name its folder with --plugin-dir"};
  }
  SpawnOptions s;
  s.program = o.bin_dir + "/bp-stage-host";
  s.args = {"--plugin",  plugin,       "--endpoint",  o.stage_endpoint,
            "--host-id", spec.host_id, "--log-level", o.log_level};
  if (spec.shared) s.args.insert(s.args.end(), {"--shared", "--slots", std::to_string(spec.slots)});
  s.log_file = o.log_dir + "/stage-hosts.log";
  s.work_dir = o.run_dir;
  return process_spawn(s);
}

std::optional<ProcessId> RealProcesses::find_host(const std::string& host_id) {
  std::error_code ec;
  for (const auto& e : std::filesystem::directory_iterator("/proc", ec)) {
    const std::string name = e.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos || name.size() > 9) continue;
    auto cmdline = read_file(e.path().string() + "/cmdline", 64 << 10);
    if (!cmdline.ok() || !holds_argument(*cmdline, "--host-id", host_id)) continue;
    auto id = process_identity(std::stoi(name));
    if (id.ok()) return std::move(id).value();
  }
  return std::nullopt;
}

bool RealProcesses::alive(const ProcessId& id) { return process_alive(id); }

void RealProcesses::kill(const ProcessId& id) {
  Status sent = process_signal(id, SIGKILL);
  if (!sent.ok()) BP_LOG(err, "process.not_killed", "pid={} why={}", id.pid, sent.error().message);
}

void RealProcesses::watch(const ProcessId& id, std::function<void(std::string how)> gone) {
  auto fd = process_watch(id);
  if (!fd.ok()) {
    boost::asio::post(impl_->io, [pid = id.pid, gone = std::move(gone)] { gone(reap(pid)); });
    return;
  }
  auto descriptor =
      std::make_shared<boost::asio::posix::stream_descriptor>(impl_->io, fd->release());
  descriptor->async_wait(
      boost::asio::posix::stream_descriptor::wait_read,
      [descriptor, pid = id.pid, gone = std::move(gone)](const boost::system::error_code& ec) {
        if (!ec) gone(reap(pid));
      });
}

}  // namespace bp::daemon
