#include "engine/daemon/daemon.h"

#include <signal.h>
#include <sodium.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <cstdlib>

#include "engine/base/build.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/log.h"
#include "engine/base/process.h"
#include "engine/bus/listening.h"
#include "engine/daemon/asio_executor.h"
#include "engine/daemon/file_logs.h"
#include "engine/daemon/loop_watch.h"
#include "engine/daemon/machine_check.h"
#include "engine/daemon/mark_file.h"
#include "engine/daemon/real_processes.h"
#include "engine/daemon/real_transport.h"
#include "engine/daemon/service.h"
#include "engine/daemon/workflows.h"
#include "engine/shell/secret_box.h"
#include "engine/shell/shell.h"
#include "engine/daemon/journal_tasks.h"
#include "engine/supervisor/cgroup.h"
#include "storage/sqlite_journal.h"

namespace bp::daemon {
namespace {

constexpr int64_t kSettleMs = 5'000;  // for the snapshots of a clean stop

constexpr int64_t kProbeMs = 3'000;            // for a new program to say its version
constexpr const char* kUpgraded = "BP_UPGRADED";  // over an exec: the sockets are this daemon's own

class SystemRandom final : public shell::Random {
 public:
  // From a buffer: a system call for each of thousands of ids a second would cost more than they do.
  std::string id(std::string_view prefix) override {
    std::string out(prefix);
    out += '-';
    for (size_t n = 0; n < 16;) {
      if (used_ == sizeof bytes_) {
        randombytes_buf(bytes_, sizeof bytes_);
        used_ = 0;
      }
      const unsigned char byte = bytes_[used_++];
      if (byte >= 252) continue;  // 7 * 36: all characters alike
      out += "0123456789abcdefghijklmnopqrstuvwxyz"[byte % 36];
      ++n;
    }
    return out;
  }

 private:
  unsigned char bytes_[4096];
  size_t used_ = sizeof bytes_;
};

class Daemon {
 public:
  explicit Daemon(const Config& config)
      : config_(config),
        executor_(io_, watch_),
        logs_(config.state_dir + "/logs"),
        signals_(io_, SIGTERM, SIGINT),
        upgrades_(io_, SIGHUP),
        program_(program_dir() + "/bp-daemon") {}
  Status start();
  int serve();

 private:
  Status make_folders();
  Result<shell::Settings> make_settings();
  void write_identity();
  void end(int status, const char* why);
  void feed_watchdog();
  void await_upgrade();
  int become_new_program();

  const Config& config_;
  boost::asio::io_context io_{1};
  LoopWatch watch_;
  AsioExecutor executor_;
  SystemClock clock_;
  SystemRandom random_;
  FileLogs logs_;
  boost::asio::signal_set signals_, upgrades_;
  const std::string program_;  // as it was at the start: the file may have been replaced since
  bool upgrade_ = false;
  std::vector<std::string> inherited_;  // endpoints of listening sockets that were handed over
  Fd lock_;
  std::unique_ptr<MarkFile> mark_;
  std::unique_ptr<storage::SqliteJournal> journal_;
  std::unique_ptr<JournalTasks> tasks_;
  std::unique_ptr<RealTransport> transport_;
  std::unique_ptr<RealProcesses> processes_;
  std::unique_ptr<shell::Shell> shell_;
  int status_ = kExitOk;
};

Status Daemon::make_folders() {
  for (const auto& path :
       {config_.state_dir, config_.run_dir, config_.state_dir + "/keys",
        config_.state_dir + "/logs", config_.state_dir + "/nodes", config_.state_dir + "/cache",
        config_.state_dir + "/exits", config_.state_dir + "/work", config_.state_dir + "/plugins"}) {
    BP_TRY(make_dirs(path, 0700));
  }
  return {};
}

Result<shell::Settings> Daemon::make_settings() {
  shell::Settings s;
  s.version = build_id();
  BP_ASSIGN(s.self, process_identity(::getpid()));
  s.boot_id = boot_id();
  s.state_dir = config_.state_dir;
  s.run_dir = config_.run_dir;
  s.cache_dir = config_.state_dir + "/cache";
  s.bin_dir = program_dir();
  s.plugin_dir = config_.plugin_dir;
  s.provider = config_.provider;
  s.device = config_.device;
  s.allow_private_stores = config_.allow_private_stores;
  s.exact = config_.exact;
  s.trace_mib = config_.trace_mib;
  s.embedded = config_.embedded;
  s.start_paused = config_.start_paused;
  s.admit_active = config_.admit_active;
  BP_ASSIGN(s.workflows, load_workflows(config_.workflow_dir));
  BP_ASSIGN(s.secrets_key,
            shell::load_or_make_secrets_key(config_.state_dir + "/keys/secrets.key"));
  return s;
}

Status Daemon::start() {
  inherited_ = bus::inherit_listening();
  if (std::getenv(kUpgraded)) inherited_.clear();
  ::unsetenv(kUpgraded);
  supervisor::prepare_delegation();
  BP_TRY(make_folders());
  BP_ASSIGN(lock_, take_lock(config_.state_dir + "/daemon.lock"));
  write_identity();  // at once: who finds the lock taken looks here for its holder
  BP_ASSIGN(auto settings, make_settings());
  BP_ASSIGN(auto keys, bus::load_or_make_key_pair(config_.state_dir + "/keys/daemon.key"));
  settings.node_public_key = keys.public_key;
  BP_ASSIGN(mark_, MarkFile::open(config_.state_dir + "/fault.mark"));
  settings.mark = mark_->mark();
  storage::SqliteJournalOptions journal;
  journal.path = config_.state_dir + "/journal.db";
  BP_ASSIGN(journal_, storage::SqliteJournal::open(std::move(journal)));

  const std::string stage_endpoint = "ipc://" + config_.run_dir + "/stage.sock";
  transport_ = std::make_unique<RealTransport>(
      io_, TransportOptions{"ipc://" + config_.run_dir + "/client.sock", stage_endpoint,
                                  config_.state_dir + "/node_endpoint", std::move(keys)});
  processes_ = std::make_unique<RealProcesses>(
      io_, ProcessesOptions{settings.bin_dir, config_.plugin_dir, config_.run_dir,
                            config_.state_dir, config_.log_level, stage_endpoint});
  BP_TRY(transport_->open(
      [this](shell::Channel c, const bus::Peer& p, std::string_view m) {
        static constexpr const char* kTurns[] = {"client message", "stage message", "node message"};
        LoopWatch::Turn turn(watch_, kTurns[static_cast<int>(c)]);
        shell_->on_message(c, p, m);
      },
      [this](shell::Channel c, const std::string& id) { shell_->on_unreachable(c, id); }));
  settings.node_endpoint = transport_->node_endpoint();

  shell::Shell::Hooks hooks;
  hooks.fatal = [this](Status s) {
    BP_LOG(err, "journal.unusable", "{}", s.error().to_string());
    end(kExitJournal, "the journal is unusable");
  };
  hooks.shutdown = [this] { end(kExitOk, "a client asked for it"); };
  hooks.machine_findings = [settings] { return check_machine(settings); };
  tasks_ = std::make_unique<JournalTasks>(*journal_, executor_);
  hooks.journal_task = [this](const auto& task, auto place, auto report) {
    return tasks_->start(task, place, std::move(report));
  };
  shell_ = std::make_unique<shell::Shell>(
      shell::World{executor_, clock_, random_, *journal_, *transport_, *processes_, logs_}, settings,
      std::move(hooks));
  BP_TRY(shell_->start());
  return transport_->open_clients();
}

void Daemon::write_identity() {
  auto self = process_identity(::getpid());
  if (!self.ok()) return;
  Status written =
      write_file_atomic(config_.state_dir + "/daemon.pid", std::to_string(self->pid) + " " +
                                                               std::to_string(self->start_ticks) +
                                                               " " + self->boot_id + "\n");
  if (!written.ok()) BP_LOG(warn, "pid_file.not_written", "{}", written.error().message);
}

void Daemon::end(int status, const char* why) {
  BP_LOG(info, "daemon.stopping", "why={}", why);
  notify_systemd(upgrade_ ? "RELOADING=1" : "STOPPING=1");
  status_ = status;
  // Answers that were just given leave first.
  auto leave = [this] {
    shell_->stop();
    executor_.after(50, [this] { io_.stop(); });
  };
  if (status != kExitOk) return leave();
  executor_.after(kSettleMs, leave);
  shell_->settle(leave);
}

void Daemon::feed_watchdog() {
  notify_systemd("WATCHDOG=1");
  executor_.after(watchdog_ms(), [this] { feed_watchdog(); });
}

// SIGHUP: the program that now lies where this one was started from takes over in this very process. Listening
// sockets stay open (a client that dials meanwhile waits), children stay children, running stages go on.
void Daemon::await_upgrade() {
  upgrades_.async_wait([this](const boost::system::error_code& ec, int) {
    if (ec) return;
    SpawnOptions probe;
    probe.program = program_;
    probe.args = {"--version"};
    auto started = process_spawn(probe);
    int status = -1;
    for (auto until = Deadline::in_ms(kProbeMs); started.ok() && !until.passed(); ::usleep(2'000)) {
      if (::waitpid(started->pid, &status, WNOHANG) == started->pid) break;
      status = -1;
    }
    if (started.ok() && status == -1) {
      (void)process_signal(*started, SIGKILL);
      (void)process_wait_gone(*started, Deadline::in_ms(kProbeMs));
    }
    if (!started.ok() || status != 0) {
      BP_LOG(err, "upgrade.refused", "program={} why={}", program_,
             started.ok() ? "it does not run" : started.error().message);
      return await_upgrade();
    }
    upgrade_ = true;
    end(kExitOk, "an upgrade");
  });
}

// Returns only when it could not.
int Daemon::become_new_program() {
  std::vector<Fd> kept;
  const std::string client = "ipc://" + config_.run_dir + "/client.sock";
  const std::string stages = "ipc://" + config_.run_dir + "/stage.sock";
  for (const auto& endpoint : {client, stages, transport_->node_endpoint()}) {
    auto fd = bus::find_listening(endpoint);
    if (fd.ok()) kept.push_back(std::move(fd).value());
    else BP_LOG(warn, "listening.not_kept", "endpoint={} why={}", endpoint, fd.error().message);
  }
  tasks_.reset();
  journal_.reset();  // the journal is closed in good order; the rest goes with the process image
  auto cmdline = read_file("/proc/self/cmdline", 1 << 20);
  std::vector<std::string> words;
  for (size_t at = 0; cmdline.ok() && at < cmdline->size(); at += words.back().size() + 1) {
    words.emplace_back(cmdline->c_str() + at);
  }
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  BP_LOG(info, "daemon.replaced", "program={} listening={}", program_, kept.size());
  bus::bequeath_listening(std::move(kept));
  if (inherited_.empty()) ::setenv(kUpgraded, "1", 1);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execv(program_.c_str(), argv.data());
  BP_LOG(err, "upgrade.failed", "program={} errno={}", program_, errno);
  return kExitFailed;
}

int Daemon::serve() {
  await_upgrade();
  signals_.async_wait([this](const boost::system::error_code& ec, int signal) {
    if (!ec) end(kExitOk, signal == SIGTERM ? "SIGTERM" : "SIGINT");
  });
  BP_LOG(info, "daemon.ready", "version={} state_dir={} run_dir={} nodes={} provider={} device={}",
         build_id(), config_.state_dir, config_.run_dir, transport_->node_endpoint(),
         config_.provider, config_.device);
  notify_systemd("READY=1");
  if (watchdog_ms() > 0) feed_watchdog();
  io_.run();
  if (upgrade_ && status_ == kExitOk) return become_new_program();
  // Closures of the socket thread and the store refer to what is above them here.
  transport_.reset();
  tasks_.reset();
  journal_.reset();
  shell_.reset();
  ::unlink((config_.state_dir + "/daemon.pid").c_str());
  // Sockets that a service manager handed over stay: who dials waits for the next daemon.
  for (const std::string name : {"client.sock", "stage.sock"}) {
    const std::string path = config_.run_dir + "/" + name;
    if (std::find(inherited_.begin(), inherited_.end(), "ipc://" + path) == inherited_.end()) ::unlink(path.c_str());
  }
  BP_LOG(info, "daemon.stopped", "status={}", status_);
  return status_;
}

}  // namespace

int run(const Config& config) {
  Daemon daemon(config);
  Status started = daemon.start();
  if (!started.ok()) {
    BP_LOG(err, "daemon.not_started", "{}", started.error().to_string());
    return started.error().code == ErrorCode::kJournal ? kExitJournal : kExitFailed;
  }
  return daemon.serve();
}

}  // namespace bp::daemon
