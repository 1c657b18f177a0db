#include "engine/daemon/mark_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "engine/base/fd.h"

namespace bp::daemon {

Result<std::unique_ptr<MarkFile>> MarkFile::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return errno_error("open " + path, errno);
  // With its blocks: a write into a hole of a full disk would kill the process.
  if (const int e = ::posix_fallocate(fd.get(), 0, sizeof(shell::FaultMark)))
    return errno_error("allocate " + path, e);
  void* at = ::mmap(nullptr, sizeof(shell::FaultMark), PROT_READ | PROT_WRITE, MAP_SHARED,
                    fd.get(), 0);
  if (at == MAP_FAILED) return errno_error("map " + path, errno);
  return std::unique_ptr<MarkFile>(new MarkFile(static_cast<shell::FaultMark*>(at)));
}

MarkFile::~MarkFile() { ::munmap(mark_, sizeof(shell::FaultMark)); }

}  // namespace bp::daemon
