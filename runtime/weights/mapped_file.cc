#include "runtime/weights/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "engine/base/fd.h"

namespace bp::rt {

Result<MappedFile> MappedFile::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error("open " + path, errno);
  struct stat st {};
  if (fstat(fd.get(), &st) != 0) return errno_error("stat " + path, errno);
  if (!S_ISREG(st.st_mode) || st.st_size <= 0)
    return Error{ErrorCode::kCorruptData, path + ": found an empty or special file, expected a model file", {}};
  void* base = mmap(nullptr, static_cast<size_t>(st.st_size), PROT_READ, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED) return errno_error("map " + path, errno);
  MappedFile file;
  file.base_ = base;
  file.size_ = static_cast<size_t>(st.st_size);
  file.path_ = path;
  file.identity_ = fmt::format("{}.{}.{}.{}.{}.{}", st.st_dev, st.st_ino, st.st_size, st.st_mtim.tv_sec,
                               st.st_mtim.tv_nsec, st.st_ctim.tv_nsec);
  return file;
}

MappedFile::MappedFile(MappedFile&& o) noexcept
    : base_(std::exchange(o.base_, nullptr)), size_(std::exchange(o.size_, 0)), path_(std::move(o.path_)),
      identity_(std::move(o.identity_)) {}

MappedFile& MappedFile::operator=(MappedFile&& o) noexcept {
  std::swap(base_, o.base_);
  std::swap(size_, o.size_);
  std::swap(path_, o.path_);
  std::swap(identity_, o.identity_);
  return *this;
}

void MappedFile::forget_pages() const {
  if (base_) (void)madvise(base_, size_, MADV_DONTNEED);   // of a shared file mapping nothing is lost
}

MappedFile::~MappedFile() {
  if (base_) munmap(base_, size_);
}

}  // namespace bp::rt
