#include "runtime/rank/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/tensor/huge_pages.h"

namespace bp::rt {

Segment::Segment(Segment&& o) noexcept
    : fd_(o.fd_), name_(std::move(o.name_)), bytes_(std::exchange(o.bytes_, {})), write_sealed_(o.write_sealed_) {}

Segment::~Segment() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

Result<Segment> Segment::open(int fd, uint64_t size_bytes, std::string name) {
  Segment s(fd, std::move(name));
  const std::string what = "segment " + s.name_;
  struct stat st {};
  if (::fstat(fd, &st) != 0) return errno_error(what + " (fd " + std::to_string(fd) + ")", errno);
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) return errno_error(what + " is no memfd that can be sealed", errno);
  if (size_bytes == 0) return Error{ErrorCode::kInvalidArgument, what + " would be empty", {}};
  if (static_cast<uint64_t>(st.st_size) != size_bytes) {
    if (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) {
      return Error{ErrorCode::kConflict,
                   what + " is sealed at " + std::to_string(st.st_size) + " bytes, this rank needs " +
                       std::to_string(size_bytes),
                   "It belongs to another model or layout: the node must make it anew"};
    }
    if (::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) return errno_error("size of " + what, errno);
  }
  // From here on nobody can cut the memory under our feet.
  if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW) &&
      ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return errno_error("seal the size of " + what, errno);
  }
  s.write_sealed_ = (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0;
  void* p = map_aligned(fd, size_bytes, PROT_READ | PROT_WRITE, s.write_sealed_ ? MAP_PRIVATE : MAP_SHARED);
  if (p == MAP_FAILED) return errno_error("map " + what, errno);
  s.bytes_ = {static_cast<std::byte*>(p), size_bytes};
  return s;
}

Status Segment::seal_writes() {
  if (!write_sealed_ && ::fcntl(fd_, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    return errno_error("seal segment " + name_ + " against writing", errno);
  }
  write_sealed_ = true;
  if (::mprotect(bytes_.data(), bytes_.size(), PROT_READ) != 0) {
    return errno_error("protect segment " + name_, errno);
  }
  return {};
}

}  // namespace bp::rt
