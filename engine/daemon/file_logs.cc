#include "engine/daemon/file_logs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/files.h"
#include "engine/base/log.h"

namespace bp::daemon {
namespace {
bool plain(const std::string& name) {
  return !name.empty() && name[0] != '.' && name.find('/') == std::string::npos;
}
}  // namespace

void FileLogs::append(const std::string& run_id, const std::string& stage,
                      const std::string& line) {
  if (!plain(run_id) || !plain(stage)) return;
  std::string text = line;
  std::replace(text.begin(), text.end(), '\n', ' ');
  text += '\n';
  const std::string folder = folder_ + "/" + run_id, path = folder + "/" + stage + ".log";
  Fd fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (!fd && errno == ENOENT && make_dirs(folder).ok()) {
    fd = Fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  }
  struct stat st {};
  if (!fd || ::fstat(fd.get(), &st) != 0) {
    BP_LOG(warn, "log.not_written", "path={} errno={}", path, errno);
    return;
  }
  if (static_cast<uint64_t>(st.st_size) >= kFileBytesMax) return;
  if (::write(fd.get(), text.data(), text.size()) < 0)
    BP_LOG(warn, "log.not_written", "path={} errno={}", path, errno);
}

std::string FileLogs::read(const std::string& run_id, const std::string& stage, uint64_t offset,
                           size_t max_bytes) {
  if (!plain(run_id) || !plain(stage)) return {};
  Fd fd(::open((folder_ + "/" + run_id + "/" + stage + ".log").c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return {};
  std::string out(max_bytes, '\0');
  ssize_t n = ::pread(fd.get(), out.data(), out.size(), static_cast<off_t>(offset));
  out.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return out;
}

}  // namespace bp::daemon
