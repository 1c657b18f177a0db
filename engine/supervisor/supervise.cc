#include "engine/supervisor/supervise.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "engine/base/clock.h"
#include "engine/base/fd.h"
#include "engine/base/files.h"
#include "engine/base/log.h"
#include "engine/base/process.h"
#include "engine/supervisor/cgroup.h"
#include "engine/supervisor/tree.h"

extern char** environ;

namespace bp::supervisor {
namespace {

constexpr int kNotStarted = 127;
constexpr int kPriority = -10;
constexpr int64_t kEndMs = 5'000;            // for the kernel to end what was killed
constexpr uint64_t kProcessMargin = 512;      // for others of this user to come and go
constexpr size_t kTreeMax = 10'000;          // processes worked off in one round
constexpr size_t kDiskEntriesMax = 200'000;  // files of a work folder that are looked at
constexpr uint64_t kDataMargin = 128 << 20;  // stacks and libraries beside what the plugin asks for

std::string mib(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

std::string status_text(int status) {
  if (WIFSIGNALED(status)) {
    return "killed by signal " + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
  }
  return "exited with status " + std::to_string(WEXITSTATUS(status));
}

// The last number of the fourth word of /proc/loadavg: not fewer than this user's.
uint64_t tasks_of_machine() {
  auto text = read_file("/proc/loadavg", 256);
  const size_t slash = text.ok() ? text->find('/') : std::string::npos;
  return slash == std::string::npos ? 0 : std::strtoull(text->c_str() + slash + 1, nullptr, 10);
}

class Supervisor {
 public:
  explicit Supervisor(const Options& options) : o_(options), confined_(options.limits.any()) {}
  int run();

 private:
  Status prepare();
  Status start();
  [[noreturn]] void child();
  [[noreturn]] void host();
  [[noreturn]] void first_of_namespace();
  void set_rlimits() const;
  bool reap();
  void pass_logs();
  void look();
  size_t tree_max() const { return o_.limits.processes ? o_.limits.processes + 2 : kTreeMax; }
  void throttle(const Usage& usage, int64_t now);
  void end(std::string why);
  void kill_tree();
  void end_leftovers();
  void write_exit_file(const std::string& how) const;

  const Options& o_;
  const bool confined_;
  std::optional<Cgroup> group_;
  bool namespace_ = false, memory_by_group_ = false, processes_by_group_ = false, cpu_by_group_ = false;
  Fd signals_, status_read_, status_write_, logs_read_, logs_write_;
  std::vector<std::string> env_text_;
  std::vector<char*> argv_, envp_;
  pid_t child_ = 0;
  int status_ = 0;
  uint64_t user_processes_ = 0;
  std::string why_;  // the limit that it broke
  uint64_t log_left_ = 0, log_dropped_ = 0, looks_ = 0, disk_ = 0;
  bool stopped_ = false;                          // for want of CPU budget
  int64_t window_ns_ = 0;
  uint64_t window_cpu_ms_ = 0;
};

Status Supervisor::prepare() {
  if (o_.command.empty() || o_.command[0].empty() || o_.command[0][0] != '/') {
    return Error{ErrorCode::kInvalidArgument, "the command is not named by an absolute path", {}};
  }
  if (o_.limits.processes) user_processes_ = tasks_of_machine();
  if (!o_.work_dir.empty()) {
    BP_TRY(make_dirs(o_.work_dir));
    if (::chdir(o_.work_dir.c_str()) != 0) return errno_error("enter " + o_.work_dir, errno);
  }
  sigset_t handled;
  sigemptyset(&handled);
  for (int s : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&handled, s);
  ::sigprocmask(SIG_BLOCK, &handled, nullptr);
  signals_ = Fd(::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK));
  int pair[2];
  if (!signals_ || ::pipe2(pair, O_CLOEXEC) != 0) return errno_error("prepare", errno);
  status_read_ = Fd(pair[0]);
  status_write_ = Fd(pair[1]);
  log_left_ = o_.limits.log_bytes;
  if (o_.limits.log_bytes > 0) {
    if (::pipe2(pair, O_CLOEXEC) != 0) return errno_error("pipe", errno);
    logs_read_ = Fd(pair[0]);
    logs_write_ = Fd(pair[1]);
    ::fcntl(logs_read_.get(), F_SETFL, O_NONBLOCK);
  }
  for (char** e = environ; *e; ++e) env_text_.emplace_back(*e);
  auto self = process_identity(::getpid());
  if (self.ok()) {
    env_text_.push_back("BP_HOST_PROCESS=" + std::to_string(self->pid) + " " + std::to_string(self->start_ticks));
  }
  if (!o_.work_dir.empty()) {
    std::erase_if(env_text_, [](const auto& e) { return e.starts_with("TMPDIR="); });
    env_text_.push_back("TMPDIR=" + o_.work_dir);
    env_text_.push_back("BP_WORK_DIR=" + o_.work_dir);
  }
  for (const auto& a : o_.command) argv_.push_back(const_cast<char*>(a.c_str()));
  for (auto& e : env_text_) envp_.push_back(e.data());
  argv_.push_back(nullptr);
  envp_.push_back(nullptr);
  return {};
}

Status Supervisor::start() {
  const Limits& l = o_.limits;
  if (confined_) {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    group_ = Cgroup::make(o_.name);
    if (group_) {
      memory_by_group_ = l.memory_bytes && group_->limit_memory(l.memory_bytes);
      processes_by_group_ = l.processes && group_->limit_processes(l.processes + 1);  // the namespace's first
      cpu_by_group_ = l.cpu_percent && group_->limit_cpu(l.cpu_percent);
    }
    namespace_ = ::unshare(CLONE_NEWPID) == 0;
    (void)::setpriority(PRIO_PROCESS, 0, kPriority);  // where permitted: it must get to run beside what it watches
    BP_LOG(info, "cage.made", "host={} pid_namespace={} cgroup={} memory={} processes={} cpu={}", o_.name, namespace_,
           group_ ? group_->path() : "none", memory_by_group_ ? "cgroup" : "rlimit+look",
           processes_by_group_ ? "cgroup" : "look", cpu_by_group_ ? "cgroup" : "look");
  }
  child_ = ::fork();
  if (child_ < 0) return errno_error("fork", errno);
  if (child_ == 0) child();
  status_write_.reset();
  logs_write_.reset();
  return {};
}

// From here to the exec only async-signal-safe calls, as this process has one thread and prepared its memory.
void Supervisor::child() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (!namespace_ && ::getppid() == 1) ::_exit(kNotStarted);
  if (group_) (void)group_->enter();
  if (!namespace_) host();
  first_of_namespace();
}

// Reaps what the host's family leaves; when the host has ended it ends, and the kernel ends the rest.
void Supervisor::first_of_namespace() {
  const pid_t pid = ::fork();
  if (pid == 0) host();
  int status = kNotStarted << 8;
  for (pid_t got = 0; pid > 0 && got != pid;) {
    got = ::waitpid(-1, &status, 0);  // untimed: as long as the host lives
    if (got < 0 && errno != EINTR) break;
  }
  (void)!::write(status_write_.get(), &status, sizeof status);
  ::_exit(0);
}

void Supervisor::set_rlimits() const {
  const auto set = [](int what, rlim_t value) {
    const rlimit limit{value, value};
    (void)::setrlimit(static_cast<__rlimit_resource>(what), &limit);
  };
  const Limits& l = o_.limits;
  if (l.memory_bytes) set(RLIMIT_DATA, l.memory_bytes + kDataMargin);
  if (l.open_files) set(RLIMIT_NOFILE, l.open_files);
  if (l.cpu_seconds) set(RLIMIT_CPU, l.cpu_seconds + 1);
  if (confined_) set(RLIMIT_CORE, 0);
  // Counts all that this user runs, so it only ends a bomb; the limit itself is kept by group or by looking.
  if (l.processes) set(RLIMIT_NPROC, user_processes_ + l.processes + kProcessMargin);
}

void Supervisor::host() {
  if (namespace_) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (confined_) (void)::setpriority(PRIO_PROCESS, 0, 0);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (logs_write_) {
    ::dup2(logs_write_.get(), 1);
    ::dup2(logs_write_.get(), 2);
  }
  set_rlimits();
  ::execve(argv_[0], argv_.data(), envp_.data());
  ::_exit(kNotStarted);
}

// True once the host has ended; orphans that were handed to this process go by the way.
bool Supervisor::reap() {
  bool ended = false;
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid != child_) continue;
    ended = true;
    status_ = status;
    int inner = 0;
    if (namespace_ && ::read(status_read_.get(), &inner, sizeof inner) == sizeof inner) status_ = inner;
  }
  return ended;
}

void Supervisor::pass_logs() {
  if (!logs_read_) return;
  char buffer[16 << 10];
  for (ssize_t n; (n = ::read(logs_read_.get(), buffer, sizeof buffer)) > 0;) {
    const size_t pass = std::min<uint64_t>(static_cast<uint64_t>(n), log_left_);
    log_left_ -= pass;
    log_dropped_ += static_cast<uint64_t>(n) - pass;
    (void)!::write(2, buffer, pass);
  }
}

void Supervisor::kill_tree() {
  if (child_ > 0) ::kill(child_, SIGKILL);  // the first of a namespace takes all of it along
  if (namespace_ || !confined_) return;
  if (group_ && group_->kill_all()) return;
  // Stopped first, so that nobody forks while the list is worked off.
  for (int round = 0; round < 100; ++round) {
    const auto pids = descendants(::getpid(), kTreeMax);
    if (pids.empty()) return;
    signal_all(pids, SIGSTOP);
    if (descendants(::getpid(), kTreeMax).size() <= pids.size()) return signal_all(pids, SIGKILL);
  }
}

void Supervisor::end(std::string why) {
  if (why_.empty()) {
    BP_LOG(warn, "host.ended_by_limit", "host={} why={}", o_.name, why);
    why_ = std::move(why);
  }
  kill_tree();
}

// Where no controller does it: so much CPU time within a window, then a pause for the rest of what it took.
void Supervisor::throttle(const Usage& usage, int64_t now) {
  const uint64_t used_ms = usage.cpu_ms - std::min(usage.cpu_ms, window_cpu_ms_);
  const int64_t window_ms = (now - window_ns_) / 1'000'000;
  const bool over = used_ms * 100 > static_cast<uint64_t>(window_ms) * o_.limits.cpu_percent + 1000;
  if (over != stopped_) {
    signal_all(descendants(child_, tree_max()), over ? SIGSTOP : SIGCONT);
    if (!namespace_) ::kill(child_, over ? SIGSTOP : SIGCONT);
    stopped_ = over;
  }
  if (!stopped_ && window_ms > 1000) {
    window_ns_ = now;
    window_cpu_ms_ = usage.cpu_ms;
  }
}

void Supervisor::look() {
  const Limits& l = o_.limits;
  std::vector<pid_t> pids = descendants(child_, tree_max());
  if (!namespace_) pids.push_back(child_);
  const Usage usage = usage_of(pids);
  if (l.memory_bytes && usage.memory_bytes > l.memory_bytes) {
    return end("ended by its memory limit: " + mib(usage.memory_bytes) + " used, " + mib(l.memory_bytes) + " allowed");
  }
  if (l.processes && usage.processes > l.processes) {
    return end("ended by its process limit: " + std::to_string(usage.processes) + " processes, " +
               std::to_string(l.processes) + " allowed");
  }
  if (l.cpu_seconds && usage.cpu_ms > l.cpu_seconds * 1000) {
    return end("ended by its CPU limit: " + std::to_string(l.cpu_seconds) + " s used");
  }
  // Often when much of it is used, else now and then: a walk of the folder costs.
  if (l.disk_bytes && !o_.work_dir.empty() && (disk_ > l.disk_bytes / 4 || looks_ % 4 == 0)) {
    disk_ = disk_bytes(o_.work_dir, kDiskEntriesMax);
    if (disk_ > l.disk_bytes) {
      return end("ended by its disk quota: " + mib(disk_) + " used, " + mib(l.disk_bytes) + " allowed");
    }
  }
  if (l.cpu_percent && !cpu_by_group_) throttle(usage, monotonic_ns());
  ++looks_;
}

void Supervisor::end_leftovers() {
  if (!confined_) return;
  const auto until = Deadline::in_ms(kEndMs);
  child_ = 0;
  do {
    (void)reap();
    const auto left = descendants(::getpid(), kTreeMax);
    if (left.empty()) break;
    if (!(group_ && group_->kill_all())) signal_all(left, SIGKILL);
    pollfd p{signals_.get(), POLLIN, 0};
    (void)::poll(&p, 1, 10);
  } while (!until.passed());
  if (group_) {
    if (group_->out_of_memory_kills() > 0 && why_.empty()) {
      why_ = "ended by its memory limit: " + mib(o_.limits.memory_bytes) + " allowed";
    }
    group_->remove();
  }
}

// Not synced: a host and what is known of it end with the machine anyway.
void Supervisor::write_exit_file(const std::string& how) const {
  auto self = process_identity(::getpid());
  if (o_.exit_dir.empty() || !self.ok()) return;
  const std::string path = exit_file(o_.exit_dir, *self), temporary = path + ".new";
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd || ::write(fd.get(), how.data(), how.size()) != static_cast<ssize_t>(how.size()) ||
      ::rename(temporary.c_str(), path.c_str()) != 0) {
    BP_LOG(err, "exit_file.not_written", "path={} errno={}", path, errno);
  }
}

int Supervisor::run() {
  Status ready = prepare();
  if (ready.ok()) ready = start();
  if (!ready.ok()) {
    BP_LOG(err, "host.not_started", "host={} why={}", o_.name, ready.error().message);
    return kNotStarted;
  }
  window_ns_ = monotonic_ns();
  int64_t next_look_ns = 0;
  for (bool ended = false; !ended;) {
    const int64_t now = monotonic_ns();
    if (confined_ && now >= next_look_ns) {
      look();
      next_look_ns = now + kLookMs * 1'000'000;
    }
    pollfd fds[2] = {{signals_.get(), POLLIN, 0}, {logs_read_.get(), POLLIN, 0}};
    const int64_t wait_ms = confined_ ? Deadline::at_ns(next_look_ns).left_ms() + 1 : 60'000;
    (void)::poll(fds, logs_read_ ? 2 : 1, static_cast<int>(wait_ms));
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGCHLD) kill_tree();
    }
    pass_logs();
    if (logs_read_ && (fds[1].revents & POLLHUP) != 0) logs_read_.reset();
    ended = reap();
  }
  pass_logs();
  end_leftovers();
  const std::string how = why_.empty() ? status_text(status_) : why_;
  if (log_dropped_ > 0) BP_LOG(warn, "log.dropped", "host={} bytes={}", o_.name, log_dropped_);
  BP_LOG(info, "host.ended", "host={} how={}", o_.name, how);
  if (!why_.empty() || status_ != 0) write_exit_file(how);
  if (!o_.work_dir.empty()) {
    (void)!::chdir("/");
    (void)remove_tree(o_.work_dir);
  }
  return WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_);
}

}  // namespace

int supervise(const Options& options) { return Supervisor(options).run(); }

std::string exit_file(const std::string& exit_dir, const ProcessId& supervisor) {
  return exit_dir + "/" + std::to_string(supervisor.pid) + "-" + std::to_string(supervisor.start_ticks);
}

}  // namespace bp::supervisor
