#include "engine/node/safe_tree.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "engine/base/ids.h"
#include "engine/base/limits.h"

namespace bp::node {
namespace {

constexpr size_t kPartsMax = 64;
constexpr size_t kPathBytesMax = limits::kObjectNameBytes + 1024;  // mount location and object name
constexpr size_t kPartBytesMax = 255;                              // NAME_MAX

Error bad_path(std::string_view path, const std::string& why) {
  std::string shown;
  for (char c : path.substr(0, 120))
    shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return {ErrorCode::kInvalidArgument, "object path \"" + shown + "\" " + why,
          "Rename the object, or leave it out with `exclude` in the recipe"};
}

Fd open_beneath(int dir, const std::string& name, uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  return Fd(static_cast<int>(::syscall(SYS_openat2, dir, name.c_str(), &how, sizeof how)));
}

Status copy_file(const std::string& source, int dir, const std::string& name) {
  Fd from(::open(source.c_str(), O_RDONLY | O_CLOEXEC));
  if (!from) return errno_error("open " + source, errno);
  Fd to(::openat(dir, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0440));
  if (!to) return errno_error("create " + name, errno);
  if (::ioctl(to.get(), FICLONE, from.get()) == 0) return {};
  // Not copy_file_range: between file systems of two kinds it does not work.
  for (;;) {
    const ssize_t n = ::sendfile(to.get(), from.get(), nullptr, 64 << 20);
    if (n == 0) return {};
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return file_error("copy " + source, errno, "/proc/self/fd/" + std::to_string(to.get()));
    }
  }
}

}  // namespace

std::string describe_file_system(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ec;
  fs::path at = fs::canonical(path, ec);
  if (ec) at = path;
  struct stat st {
  }, up{};
  if (::stat(at.c_str(), &st) == 0) {
    while (at.has_relative_path() && ::stat(at.parent_path().c_str(), &up) == 0 &&
           up.st_dev == st.st_dev)
      at = at.parent_path();
  }
  struct statvfs vfs {};
  std::string free = "?";
  if (::statvfs(path.c_str(), &vfs) == 0)
    free = std::to_string((static_cast<uint64_t>(vfs.f_bavail) * vfs.f_frsize) >> 20);
  return at.string() + " (" + free + " MiB free)";
}

Error file_error(const std::string& what, int errno_value, const std::string& path) {
  Error e = errno_error(what, errno_value);
  if (e.code == ErrorCode::kDiskFull) e.message += ": file system " + describe_file_system(path);
  return e;
}

Result<std::vector<std::string>> check_path(std::string_view path) {
  if (path.size() > kPathBytesMax)
    return bad_path(path, "is longer than " + std::to_string(kPathBytesMax) + " bytes");
  for (char c : path) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return bad_path(path, "holds a control character");
  }
  std::string_view rest = path;
  if (!rest.empty() && rest.front() == '/') rest.remove_prefix(1);
  std::vector<std::string> parts;
  for (;;) {
    const size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    if (part.empty()) return bad_path(path, "is absolute, ends in a slash or has an empty part");
    if (part == "." || part == "..")
      return bad_path(path, "has a part \"" + std::string(part) + "\"");
    if (part.size() > kPartBytesMax) return bad_path(path, "has a part longer than 255 bytes");
    parts.emplace_back(part);
    if (parts.size() > kPartsMax) return bad_path(path, "is more than 64 folders deep");
    if (slash == std::string_view::npos) return parts;
    rest.remove_prefix(slash + 1);
  }
}

Result<SafeTree> SafeTree::open(const std::string& root) {
  Fd fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_error("open " + root, errno);
  return SafeTree(std::move(fd));
}

Status SafeTree::place(const std::string& path, const std::string& source) const {
  BP_ASSIGN(auto parts, check_path(path));
  Fd dir = open_beneath(root_.get(), ".", O_RDONLY | O_DIRECTORY);
  for (size_t i = 0; i + 1 < parts.size() && dir; ++i) {
    if (::mkdirat(dir.get(), parts[i].c_str(), 0700) != 0 && errno != EEXIST) {
      return file_error("make folder of " + path, errno,
                        "/proc/self/fd/" + std::to_string(dir.get()));
    }
    dir = open_beneath(dir.get(), parts[i], O_RDONLY | O_DIRECTORY);
  }
  if (!dir) {
    if (errno == ELOOP) return bad_path(path, "crosses a symbolic link");
    if (errno == ENOTDIR)
      return Error{ErrorCode::kConflict, "object path " + path + " crosses a file", {}};
    return errno_error("open the folder of " + path, errno);
  }
  const std::string tmp = ".bp-" + random_hex(8);
  if (::linkat(AT_FDCWD, source.c_str(), dir.get(), tmp.c_str(), 0) != 0) {
    if (errno != EXDEV && errno != EPERM && errno != EMLINK)
      return file_error("link " + path, errno, source);
    if (auto s = copy_file(source, dir.get(), tmp); !s.ok()) {
      ::unlinkat(dir.get(), tmp.c_str(), 0);
      return s;
    }
  }
  const int renamed = ::renameat(dir.get(), tmp.c_str(), dir.get(), parts.back().c_str());
  const int error = errno;
  ::unlinkat(dir.get(), tmp.c_str(), 0);  // rename leaves it when both were the same file already
  if (renamed == 0) return {};
  if (error == EISDIR)
    return Error{ErrorCode::kConflict, "object path " + path + " is a folder already", {}};
  return errno_error("put " + path, error);
}

bool SafeTree::holds(const std::string& path, uint64_t size_bytes) const {
  auto parts = check_path(path);
  if (!parts.ok()) return false;
  std::string relative;
  for (const auto& p : *parts) relative += (relative.empty() ? "" : "/") + p;
  Fd fd = open_beneath(root_.get(), relative, O_PATH);
  struct stat st {};
  return fd && ::fstat(fd.get(), &st) == 0 && S_ISREG(st.st_mode) &&
         static_cast<uint64_t>(st.st_size) == size_bytes;
}

}  // namespace bp::node
