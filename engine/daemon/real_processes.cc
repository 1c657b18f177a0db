#include "engine/daemon/real_processes.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <filesystem>

#include "engine/base/files.h"
#include "engine/base/log.h"
#include "engine/shell/plugin_registry.h"
#include "engine/supervisor/supervise.h"

namespace bp::daemon {
namespace {

constexpr auto kExitFilesKept = std::chrono::hours(1);
constexpr uint64_t kSweepEvery = 64;  // spawns
constexpr auto kEndItself = std::chrono::seconds(2);  // for a supervisor to end its host

// Beside the programs, in a build tree as where it is installed.
std::string python_host(const std::string& bin_dir) {
  return bin_dir + "/../lib/bp-daemon/python/bp_stage_host.py";
}

bool is_supervisor(const std::string& pid) {
  auto comm = read_file("/proc/" + pid + "/comm", 64);
  return comm.ok() && *comm == "bp-supervisor\n";
}

bool holds_argument(const std::string& cmdline, const std::string& option,
                    const std::string& value) {
  const std::string wanted = option + '\0' + value + '\0';
  return cmdline.find('\0' + wanted) != std::string::npos;
}

}  // namespace

struct RealProcesses::Impl {
  Impl(boost::asio::io_context& i, ProcessesOptions o)
      : io(i), options(std::move(o)), plugins(options.plugin_dir, options.state_dir + "/plugins") {}
  std::string exits() const { return options.state_dir + "/exits"; }
  std::string how_ended(const ProcessId& id);
  void sweep();

  boost::asio::io_context& io;
  ProcessesOptions options;
  shell::PluginFiles plugins;
  uint64_t spawned = 0;
};

// Reaps it when it is a child of ours, and says how its host ended.
std::string RealProcesses::Impl::how_ended(const ProcessId& id) {
  int status = 0;
  const bool ours = ::waitpid(id.pid, &status, WNOHANG) == id.pid;
  const std::string file = supervisor::exit_file(exits(), id);
  if (auto how = read_file(file, 4096); how.ok()) return *how;
  if (!ours) return "it ended";
  if (WIFSIGNALED(status)) {
    return "killed by signal " + std::to_string(WTERMSIG(status)) + " (" +
           strsignal(WTERMSIG(status)) + ")";
  }
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

// What is older was read long ago, or belongs to a run that nobody asks for.
void RealProcesses::Impl::sweep() {
  std::error_code ec;
  const auto before = std::filesystem::file_time_type::clock::now() - kExitFilesKept;
  for (const auto& e : std::filesystem::directory_iterator(exits(), ec)) {
    std::error_code failed;
    if (e.last_write_time(failed) < before && !failed) std::filesystem::remove(e.path(), failed);
  }
}

RealProcesses::RealProcesses(boost::asio::io_context& io, ProcessesOptions options)
    : impl_(std::make_unique<Impl>(io, std::move(options))) {}
RealProcesses::~RealProcesses() = default;

Result<ProcessId> RealProcesses::spawn_host(const shell::HostSpec& spec) {
  const auto& o = impl_->options;
  BP_ASSIGN(const std::string plugin, impl_->plugins.path_of(spec.plugin, spec.plugin_hash));
  if (impl_->spawned++ % kSweepEvery == 0) impl_->sweep();
  SpawnOptions s;
  s.program = o.bin_dir + "/bp-supervisor";
  s.args = {"--host-id", spec.host_id, "--exit-dir", impl_->exits(), "--log-level", o.log_level};
  const auto add = [&s](const char* option, uint64_t value) {
    if (value > 0) s.args.insert(s.args.end(), {option, std::to_string(value)});
  };
  const auto& l = spec.limits;
  add("--memory-bytes", l.memory_bytes());
  add("--disk-bytes", l.disk_bytes());
  add("--processes", l.processes());
  add("--open-files", l.open_files());
  add("--cpu-percent", l.cpu_percent());
  add("--cpu-seconds", l.cpu_seconds());
  add("--log-bytes", l.log_bytes());
  if (l.ByteSizeLong() > 0) {
    s.args.insert(s.args.end(), {"--work-dir", o.state_dir + "/work/" + spec.host_id});
  }
  s.args.push_back("--");
  if (plugin.ends_with(".py")) {
    s.args.insert(s.args.end(), {"/usr/bin/python3", "-I", python_host(o.bin_dir)});
  } else {
    s.args.push_back(o.bin_dir + "/bp-stage-host");
  }
  s.args.insert(s.args.end(), {"--plugin", plugin, "--endpoint", o.stage_endpoint, "--host-id",
                               spec.host_id, "--log-level", o.log_level});
  add("--log-bytes", l.log_bytes());
  if (spec.shared) s.args.insert(s.args.end(), {"--shared", "--slots", std::to_string(spec.slots)});
  s.log_file = o.state_dir + "/logs/stage-hosts.log";
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
    if (!is_supervisor(name)) continue;  // its host has the argument too
    auto id = process_identity(std::stoi(name));
    if (id.ok()) return std::move(id).value();
  }
  return std::nullopt;
}

bool RealProcesses::alive(const ProcessId& id) { return process_alive(id); }

void RealProcesses::kill(const ProcessId& id) {
  // A supervisor ends its host and what that host forked; when it does not, the kernel ends the host with it.
  const bool ends_itself = is_supervisor(std::to_string(id.pid));
  Status sent = process_signal(id, ends_itself ? SIGTERM : SIGKILL);
  if (!sent.ok()) BP_LOG(err, "process.not_killed", "pid={} why={}", id.pid, sent.error().message);
  if (!ends_itself) return;
  auto timer = std::make_shared<boost::asio::steady_timer>(impl_->io, kEndItself);
  timer->async_wait([timer, id](const boost::system::error_code& ec) {
    if (!ec) (void)process_signal(id, SIGKILL);
  });
}

void RealProcesses::watch(const ProcessId& id, std::function<void(std::string how)> gone) {
  auto fd = process_watch(id);
  if (!fd.ok()) {
    boost::asio::post(impl_->io, [this, id, gone = std::move(gone)] { gone(impl_->how_ended(id)); });
    return;
  }
  auto descriptor =
      std::make_shared<boost::asio::posix::stream_descriptor>(impl_->io, fd->release());
  descriptor->async_wait(
      boost::asio::posix::stream_descriptor::wait_read,
      [this, descriptor, id, gone = std::move(gone)](const boost::system::error_code& ec) {
        if (!ec) gone(impl_->how_ended(id));
      });
}

}  // namespace bp::daemon
