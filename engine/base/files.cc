#include "engine/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "engine/base/fd.h"
#include "engine/base/ids.h"

namespace bp {

Result<std::string> read_file(const std::string& path, size_t max_bytes) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error("open " + path, errno);
  std::string out;
  char buffer[65536];
  for (;;) {
    ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("read " + path, errno);
    if (n == 0) return out;
    if (out.size() + static_cast<size_t>(n) > max_bytes) {
      return Error{ErrorCode::kTooLarge, path + " holds more than " + std::to_string(max_bytes) + " bytes", {}};
    }
    out.append(buffer, static_cast<size_t>(n));
  }
}

Status write_file_atomic(const std::string& path, std::string_view data, unsigned mode) {
  const std::string tmp = path + ".tmp-" + random_hex(6);
  Fd fd(::open(tmp.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd) return errno_error("create " + tmp, errno);
  auto fail = [&](const std::string& what) -> Status {
    Error e = errno_error(what, errno);
    ::unlink(tmp.c_str());
    return e;
  };
  for (size_t done = 0; done < data.size();) {
    ssize_t n = ::write(fd.get(), data.data() + done, data.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("write " + tmp);
    done += static_cast<size_t>(n);
  }
  if (::fsync(fd.get()) != 0) return fail("fsync " + tmp);
  if (::rename(tmp.c_str(), path.c_str()) != 0) return fail("rename to " + path);
  const std::string dir = std::filesystem::path(path).parent_path().string();
  Fd dir_fd(::open(dir.empty() ? "." : dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir_fd || ::fsync(dir_fd.get()) != 0) return errno_error("fsync folder of " + path, errno);
  return {};
}

Status make_dirs(const std::string& path, unsigned mode) {
  std::filesystem::path at;
  for (const auto& part : std::filesystem::path(path)) {
    at /= part;
    if (at.empty() || at == "/") continue;
    if (::mkdir(at.c_str(), mode) != 0 && errno != EEXIST) return errno_error("mkdir " + at.string(), errno);
  }
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0) return errno_error("stat " + path, errno);
  if (!S_ISDIR(st.st_mode)) return errno_error("mkdir " + path, ENOTDIR);
  return {};
}

Status remove_tree(const std::string& path) {
  std::error_code ec;
  std::filesystem::remove_all(path, ec);
  if (ec) return errno_error("remove " + path, ec.value());
  return {};
}

}  // namespace bp
