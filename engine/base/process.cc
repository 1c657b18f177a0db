#include "engine/base/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "engine/base/files.h"

extern char** environ;

namespace bp {
namespace {

// Fields 3 (state) and 22 (starttime) of /proc/PID/stat; the name in field 2 may hold anything.
Result<std::pair<char, uint64_t>> read_stat(pid_t pid) {
  auto text = read_file("/proc/" + std::to_string(pid) + "/stat", 4096);
  if (!text.ok()) return Error{ErrorCode::kNotFound, "no process " + std::to_string(pid), {}};
  size_t at = text->rfind(')');
  if (at == std::string::npos) return Error{ErrorCode::kInternal, "unreadable /proc stat", {}};
  char state = 0;
  unsigned long long ticks = 0;
  if (std::sscanf(text->c_str() + at + 1,
                  " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                  &state, &ticks) != 2) {
    return Error{ErrorCode::kInternal, "unreadable /proc stat", {}};
  }
  return std::make_pair(state, static_cast<uint64_t>(ticks));
}

int pidfd_open(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

std::string describe(const ProcessId& id) { return "process " + std::to_string(id.pid); }

}  // namespace

Result<ProcessId> process_identity(pid_t pid) {
  BP_ASSIGN(auto stat, read_stat(pid));
  if (stat.first == 'Z' || stat.first == 'X') {
    return Error{ErrorCode::kNotFound, "process " + std::to_string(pid) + " has ended", {}};
  }
  return ProcessId{pid, stat.second, boot_id()};
}

bool process_alive(const ProcessId& id) {
  if (id.pid <= 0) return false;
  auto now = process_identity(id.pid);
  return now.ok() && *now == id;
}

Result<Fd> process_watch(const ProcessId& id) {
  Fd fd(pidfd_open(id.pid));
  // The check comes after the open: from here on the pidfd cannot mean another process.
  if (!fd || !process_alive(id)) return Error{ErrorCode::kNotFound, describe(id) + " is gone", {}};
  return fd;
}

Status process_signal(const ProcessId& id, int signal) {
  auto fd = process_watch(id);
  if (!fd.ok()) return {};
  if (::syscall(SYS_pidfd_send_signal, fd->get(), signal, nullptr, 0) != 0 && errno != ESRCH) {
    return errno_error("signal " + describe(id), errno);
  }
  return {};
}

Status process_wait_gone(const ProcessId& id, Deadline deadline) {
  auto fd = process_watch(id);
  if (!fd.ok()) return {};
  for (;;) {
    pollfd p{fd->get(), POLLIN, 0};
    int n = ::poll(&p, 1, static_cast<int>(std::min<int64_t>(deadline.left_ms(), 1000)));
    if (n > 0 || !process_alive(id)) {
      ::waitpid(id.pid, nullptr, WNOHANG);  // reap it when it is a child of ours
      return {};
    }
    if (deadline.passed()) {
      return Error{ErrorCode::kDeadlineExceeded, "waited for " + describe(id) + " to end", {}};
    }
  }
}

Result<ProcessId> process_spawn(const SpawnOptions& o) {
  int report[2];
  if (::pipe2(report, O_CLOEXEC) != 0) return errno_error("pipe", errno);
  Fd report_read(report[0]), report_write(report[1]);
  Fd gate_parent, gate_child;
  if (o.before_exec) {
    int gate[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gate) != 0) return errno_error("socketpair", errno);
    gate_parent = Fd(gate[0]);
    gate_child = Fd(gate[1]);
  }

  // All memory is prepared before the fork: after it only async-signal-safe calls follow.
  std::vector<char*> argv{const_cast<char*>(o.program.c_str())};
  for (const auto& a : o.args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  std::vector<std::string> env_text;
  if (o.inherit_env) {
    for (char** e = environ; *e; ++e) env_text.emplace_back(*e);
  } else {
    for (const char* key : {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH",
                            "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"}) {
      if (const char* v = ::getenv(key)) env_text.push_back(std::string(key) + "=" + v);
    }
  }
  for (const auto& [k, v] : o.env) env_text.push_back(k + "=" + v);
  std::vector<char*> envp;
  for (auto& e : env_text) envp.push_back(e.data());
  envp.push_back(nullptr);
  int max_target = 2;
  for (const auto& [from, to] : o.fds) max_target = std::max(max_target, to);
  const pid_t parent = ::getpid();

  pid_t pid = ::fork();
  if (pid < 0) return errno_error("fork", errno);
  if (pid == 0) {
    auto fail = [&] {
      int e = errno;
      (void)!::write(report[1], &e, sizeof e);
      ::_exit(127);
    };
    if (gate_child) {
      ::close(gate_parent.get());  // else this process itself would keep the gate from closing
      char go = 0;
      ssize_t n;
      do { n = ::read(gate_child.get(), &go, 1); } while (n < 0 && errno == EINTR);
      if (n != 1) ::_exit(125);
    }
    if (o.own_session) ::setsid();
    if (o.die_with_parent) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(126);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    if (!o.work_dir.empty() && ::chdir(o.work_dir.c_str()) != 0) fail();
    int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    if (!o.log_file.empty()) {
      int log = ::open(o.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      if (log < 0) fail();
      ::dup2(log, 1);
      ::dup2(log, 2);
    }
    // Move the sources above every target first, so that no dup2 overwrites a source.
    int report_fd = ::fcntl(report[1], F_DUPFD_CLOEXEC, max_target + 64);
    int moved[64];
    size_t n = std::min<size_t>(o.fds.size(), 64);
    for (size_t i = 0; i < n; ++i) moved[i] = ::fcntl(o.fds[i].first, F_DUPFD, max_target + 1);
    for (size_t i = 0; i < n; ++i) ::dup2(moved[i], o.fds[i].second);
    ::syscall(SYS_close_range, static_cast<unsigned>(max_target + 1), static_cast<unsigned>(report_fd - 1), 0);
    ::syscall(SYS_close_range, static_cast<unsigned>(report_fd + 1), ~0u, 0);
    for (int fd = 3; fd <= max_target; ++fd) {
      bool wanted = false;
      for (size_t i = 0; i < n; ++i) wanted |= o.fds[i].second == fd;
      if (!wanted) ::close(fd);
    }
    report[1] = report_fd;
    ::execve(o.program.c_str(), argv.data(), envp.data());
    fail();
  }
  report_write.reset();
  auto id = process_identity(pid);
  if (o.before_exec) {
    gate_child.reset();
    Status allowed = id.ok() ? o.before_exec(*id) : Status(id.error());
    if (!allowed.ok()) {
      gate_parent.reset();
      ::waitpid(pid, nullptr, 0);  // untimed: its gate is shut, it ends
      return allowed.error();
    }
    (void)!::send(gate_parent.get(), "g", 1, MSG_NOSIGNAL);
  }
  int child_errno = 0;
  ssize_t got;
  do { got = ::read(report_read.get(), &child_errno, sizeof child_errno); } while (got < 0 && errno == EINTR);
  if (got == static_cast<ssize_t>(sizeof child_errno)) {
    ::waitpid(pid, nullptr, 0);  // untimed: it has said that it ends
    return errno_error("exec " + o.program, child_errno);
  }
  if (!id.ok()) return Error{ErrorCode::kPeerLost, o.program + " ended at once", {}};
  return id;
}

std::string program_dir() {
  std::error_code ec;
  return std::filesystem::read_symlink("/proc/self/exe", ec).parent_path().string();
}

}  // namespace bp
