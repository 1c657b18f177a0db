#include "plugins/provision/local_agent.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "engine/base/secret.h"

namespace bp::stages {
namespace {

// A line of /proc/locks: "1: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF".
std::optional<pid_t> holder_of(const struct stat& file) {
  std::ifstream locks("/proc/locks");
  std::string line;
  while (std::getline(locks, line)) {
    if (line.find("->") != std::string::npos) continue;  // a waiter
    int pid = 0;
    unsigned major_number = 0, minor_number = 0;
    uint64_t inode = 0;
    char kind[16] = "";
    if (std::sscanf(line.c_str(), "%*d: %15s %*s %*s %d %x:%x:%" SCNu64, kind, &pid, &major_number,
                    &minor_number, &inode) != 5) {
      continue;
    }
    // The device is not compared: overlay file systems show another one to stat() than to locks.
    if (inode == file.st_ino && std::string(kind) == "FLOCK" && pid > 0) return pid;
  }
  return std::nullopt;
}

}  // namespace

Result<ProcessId> find_agent(const std::string& work_dir) {
  const std::string path = work_dir + "/agent.lock";
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return Error{ErrorCode::kNotFound, "no agent has run in " + work_dir, {}};
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
    return Error{ErrorCode::kNotFound, "no agent runs in " + work_dir, {}};
  }
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return errno_error("stat " + path, errno);
  auto pid = holder_of(st);
  if (!pid) return Error{ErrorCode::kNotFound, "the holder of " + path + " has just gone", {}};
  return process_identity(*pid);
}

Result<ProcessId> start_agent(const LocalAgent& a, const AgentPrograms& programs) {
  SpawnOptions spawn;
  spawn.program = programs.bin_dir + "/bp-node";
  spawn.args = {"--node-id", a.node_id, "--run-id", programs.run_id, "--work-dir", a.work_dir,
                "--cache-dir", a.cache_dir, "--address", a.address, "--daemon-file", programs.daemon_file,
                "--key-file", a.work_dir + "/node.key", "--bin-dir", programs.bin_dir,
                "--cores", std::to_string(a.cores), "--memory-bytes", std::to_string(a.memory_bytes),
                "--log-file", a.log_file};
  spawn.work_dir = "/";
  spawn.log_file = a.log_file;
  return process_spawn(spawn);
}

std::string local_node_id(uint64_t run_number, uint32_t index) {
  return "n" + std::to_string(run_number) + "-" + std::to_string(index);
}

std::string tail_of(const std::string& path, size_t max_bytes) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return {};
  in.seekg(0, std::ios::end);
  const auto size = static_cast<size_t>(in.tellg());
  in.seekg(static_cast<std::streamoff>(size > max_bytes ? size - max_bytes : 0));
  std::ostringstream text;
  text << in.rdbuf();
  return redact(text.str());
}

}  // namespace bp::stages
