#include "engine/supervisor/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/fd.h"
#include "engine/base/files.h"

namespace bp::supervisor {
namespace {

constexpr const char* kLeaf = "/daemon";

bool write_text(const std::string& file, const std::string& text) {
  Fd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
  return fd && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// Where the cgroup2 file system is mounted, and the group of this process in it.
std::optional<std::string> own_group() {
  auto mounts = read_file("/proc/self/mounts", 1 << 20);
  auto groups = read_file("/proc/self/cgroup", 64 << 10);
  if (!mounts.ok() || !groups.ok()) return std::nullopt;
  const size_t type = mounts->find(" cgroup2 ");
  const size_t group = groups->rfind("0::/");
  if (type == std::string::npos || group == std::string::npos) return std::nullopt;
  const size_t space = mounts->rfind(' ', type - 1);
  std::string root = mounts->substr(space + 1, type - space - 1);
  std::string path = groups->substr(group + 3, groups->find('\n', group) - group - 3);
  return path == "/" ? root : root + path;
}

}  // namespace

void prepare_delegation() {
  auto group = own_group();
  // The root group and groups shared with others are none of ours: systemd names a service's after it.
  if (!group || !group->ends_with(".service")) return;
  const std::string leaf = *group + kLeaf;
  if (::mkdir(leaf.c_str(), 0755) != 0 && errno != EEXIST) return;
  if (!write_text(leaf + "/cgroup.procs", std::to_string(::getpid()))) return;
  for (const char* controller : {"+memory", "+pids", "+cpu"}) {
    (void)write_text(*group + "/cgroup.subtree_control", controller);
  }
}

std::optional<Cgroup> Cgroup::make(const std::string& name) {
  auto group = own_group();
  if (!group) return std::nullopt;
  if (group->ends_with(kLeaf)) group->resize(group->size() - std::string(kLeaf).size());
  const std::string path = *group + "/bp-" + name;
  if (::mkdir(path.c_str(), 0755) != 0) return std::nullopt;
  return Cgroup(path);
}

bool Cgroup::write(const char* file, const std::string& text) const { return write_text(path_ + "/" + file, text); }

bool Cgroup::limit_memory(uint64_t bytes) const {
  if (!write("memory.max", std::to_string(bytes))) return false;
  (void)write("memory.swap.max", "0");
  (void)write("memory.oom.group", "1");
  return true;
}
bool Cgroup::limit_processes(uint64_t count) {
  if (write("pids.max", std::to_string(count))) return true;
  const std::string old = "/sys/fs/cgroup/pids/" + path_.substr(path_.rfind('/') + 1);
  if (::mkdir(old.c_str(), 0755) != 0) return false;
  old_ = old;
  old_procs_ = old + "/cgroup.procs";
  return write_text(old + "/pids.max", std::to_string(count));
}
bool Cgroup::limit_cpu(uint32_t percent) const {
  return write("cpu.max", std::to_string(uint64_t{percent} * 1000) + " 100000");
}

bool Cgroup::enter() const {
  bool entered = true;
  for (const std::string* procs : {&procs_, &old_procs_}) {
    if (procs->empty()) continue;
    const int fd = ::open(procs->c_str(), O_WRONLY | O_CLOEXEC);
    entered = entered && fd >= 0 && ::write(fd, "0", 1) == 1;
    if (fd >= 0) ::close(fd);
  }
  return entered;
}

bool Cgroup::kill_all() const { return write("cgroup.kill", "1"); }
void Cgroup::remove() const {
  ::rmdir(path_.c_str());
  if (!old_.empty()) ::rmdir(old_.c_str());
}

uint64_t Cgroup::out_of_memory_kills() const {
  auto text = read_file(path_ + "/memory.events", 4096);
  const size_t at = text.ok() ? text->find("oom_kill ") : std::string::npos;
  return at == std::string::npos ? 0 : std::strtoull(text->c_str() + at + 9, nullptr, 10);
}

}  // namespace bp::supervisor
