#include "engine/supervisor/tree.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "engine/base/files.h"

namespace bp::supervisor {
namespace {

void add_children(pid_t pid, std::vector<pid_t>& out) {
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  std::error_code ec;
  for (const auto& task : std::filesystem::directory_iterator(tasks, ec)) {
    auto text = read_file(task.path().string() + "/children", 1 << 20);
    if (!text.ok()) continue;
    const char* at = text->c_str();
    for (char* end = nullptr;; at = end) {
      const long child = std::strtol(at, &end, 10);
      if (end == at) break;
      out.push_back(static_cast<pid_t>(child));
    }
  }
}

}  // namespace

std::vector<pid_t> descendants(pid_t root, size_t at_most) {
  std::vector<pid_t> all;
  add_children(root, all);
  for (size_t i = 0; i < all.size() && all.size() < at_most; ++i) add_children(all[i], all);
  return all;
}

Usage usage_of(const std::vector<pid_t>& pids) {
  static const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  static const uint64_t ticks = static_cast<uint64_t>(::sysconf(_SC_CLK_TCK));
  Usage usage;
  for (pid_t pid : pids) {
    const std::string folder = "/proc/" + std::to_string(pid);
    auto stat = read_file(folder + "/stat", 4096);
    const size_t at = stat.ok() ? stat->rfind(')') : std::string::npos;
    if (at == std::string::npos) continue;
    unsigned long long times[4] = {};
    char state = 0;
    if (std::sscanf(stat->c_str() + at + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu", &state,
                    &times[0], &times[1], &times[2], &times[3]) != 5) {
      continue;
    }
    for (auto t : times) usage.cpu_ms += t * 1000 / ticks;
    if (state == 'Z' || state == 'X') continue;
    ++usage.processes;
    unsigned long long size = 0, resident = 0;
    auto statm = read_file(folder + "/statm", 4096);
    if (statm.ok() && std::sscanf(statm->c_str(), "%llu %llu", &size, &resident) == 2) {
      usage.memory_bytes += resident * page;
    }
  }
  return usage;
}

void signal_all(const std::vector<pid_t>& pids, int signal) {
  for (pid_t pid : pids) ::kill(pid, signal);
}

uint64_t disk_bytes(const std::string& folder, size_t entries_max) {
  uint64_t bytes = 0;
  size_t entries = 0;
  std::error_code ec;
  using Walk = std::filesystem::recursive_directory_iterator;
  for (auto it = Walk(folder, std::filesystem::directory_options::skip_permission_denied, ec);
       !ec && it != Walk() && entries < entries_max; it.increment(ec), ++entries) {
    struct stat s {};
    if (::lstat(it->path().c_str(), &s) == 0) bytes += static_cast<uint64_t>(s.st_blocks) * 512;
  }
  return bytes;
}

}  // namespace bp::supervisor
