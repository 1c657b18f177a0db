#include "engine/daemon/machine_check.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <thread>

#include "engine/base/fd.h"
#include "engine/base/files.h"

namespace bp::daemon {
namespace {

constexpr uint64_t kGib = 1ull << 30;
constexpr uint64_t kDiskLow = 2 * kGib, kMemoryLow = 1 * kGib, kShmLow = 64ull << 20;

struct Report {
  std::vector<v1::DoctorFinding> out;
  void add(bool good, const char* bad_level, const char* check, std::string text,
           std::string remedy) {
    auto& f = out.emplace_back();
    f.set_level(good ? "ok" : bad_level);
    f.set_check(check);
    f.set_text(std::move(text));
    if (!good) f.set_remedy(std::move(remedy));
  }
};

uint64_t free_bytes(const std::string& path) {
  struct statvfs s {};
  return ::statvfs(path.c_str(), &s) == 0 ? uint64_t{s.f_bavail} * s.f_frsize : 0;
}

bool opens_beneath(const std::string& folder) {
  const Fd dir(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH;
  const Fd inside(static_cast<int>(::syscall(SYS_openat2, dir.get(), ".", &how, sizeof how)));
  return static_cast<bool>(inside);
}

// Why a local node could not listen; empty when it could.
std::string loopback_refused() {
  const Fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(0x7f7ffffe);  // 127.127.255.254, the end of the range of local nodes
  if (s && ::bind(s.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0) return {};
  return fmt::format("cannot listen on 127.127.255.254: {}", std::strerror(errno));
}

void check_files(const shell::Settings& s, Report* r) {
  struct stat st {};
  const bool is_private =
      ::stat(s.state_dir.c_str(), &st) == 0 && (st.st_mode & 0077) == 0 && st.st_uid == ::getuid();
  r->add(is_private, "error", "state folder",
         s.state_dir + (is_private ? " is private" : " can be read by others"),
         "chmod 0700 " + s.state_dir);
  for (const char* program : {"bp-stage-host", "bp-node", "bp-head", "bp-rank"}) {
    const std::string path = s.bin_dir + "/" + program;
    const bool there = ::access(path.c_str(), X_OK) == 0;
    r->add(there, "error", "program", path + (there ? "" : " is missing"),
           "Install or build all programs");
  }
  std::set<std::string> plugins;
  for (const auto& [name, w] : s.workflows) {
    for (const auto& stage : w.stages()) plugins.insert(stage.plugin());
  }
  for (const auto& plugin : plugins) {
    const std::string path = s.plugin_dir + "/" + plugin + ".so";
    const bool there = ::access(path.c_str(), R_OK) == 0;
    r->add(there, "error", "plugin", path + (there ? "" : " is missing"),
           "Install it, or name its folder with --plugin-dir");
  }
}

}  // namespace

std::vector<v1::DoctorFinding> check_machine(const shell::Settings& s) {
  Report r;
  const uint64_t disk = free_bytes(s.state_dir), shm = free_bytes("/dev/shm");
  r.add(disk >= kDiskLow, "warn", "disk",
        fmt::format("{:.1f} GiB free in {}", double(disk) / kGib, s.state_dir),
        "Free space there, or choose another --state-dir");
  r.add(shm >= kShmLow, "warn", "shared memory",
        fmt::format("{:.2f} GiB free in /dev/shm", double(shm) / kGib),
        "Enlarge /dev/shm: ranks of one node exchange data through shared memory");
  const uint64_t memory = uint64_t(::sysconf(_SC_AVPHYS_PAGES)) * uint64_t(::sysconf(_SC_PAGESIZE));
  r.add(memory >= kMemoryLow, "warn", "memory",
        fmt::format("{:.1f} GiB of memory unused", double(memory) / kGib),
        "End other programs, or deploy a smaller model");
  r.add(true, "warn", "cores", fmt::format("{} cores", std::thread::hardware_concurrency()), {});
  auto self = process_identity(::getpid());
  const bool pidfd = self.ok() && process_watch(*self).ok();
  r.add(pidfd, "error", "kernel",
        pidfd ? "processes can be watched by descriptor" : "pidfd_open does not work",
        "Linux 5.3 or newer is needed, with pidfd_open allowed");
  const Fd memfd(::memfd_create("bp-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const bool sealed = memfd && ::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0;
  r.add(sealed, "error", "memory segments",
        sealed ? "memory files can be made and sealed" : "memfd_create with seals does not work",
        "Weights and KV cache live in memfd segments: allow memfd_create (seccomp, container "
        "policy)");
  const bool beneath = opens_beneath(s.state_dir);
  r.add(beneath, "error", "openat2",
        beneath ? "paths can be kept below a folder" : "openat2 with RESOLVE_BENEATH does not work",
        "Linux 5.6 or newer is needed, with openat2 allowed");
  const std::string busy = loopback_refused();
  r.add(busy.empty(), "error", "addresses",
        busy.empty() ? "local nodes can listen on 127.x.y.z" : busy,
        "Local nodes listen on addresses of 127.64.0.0/10: let the loopback interface have "
        "127.0.0.0/8");
  check_files(s, &r);
  return std::move(r.out);
}

}  // namespace bp::daemon
