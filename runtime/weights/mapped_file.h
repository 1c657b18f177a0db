// MappedFile: a whole file mapped read-only.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace bp::rt {

class MappedFile {
 public:
  /// kNotFound, kPermission, kIo; kCorruptData when it is empty or not a regular file.
  static Result<MappedFile> open(const std::string& path);
  MappedFile(MappedFile&& o) noexcept;
  MappedFile& operator=(MappedFile&& o) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(base_), size_}; }
  std::string_view text() const { return {static_cast<const char*>(base_), size_}; }
  /// Gives the pages back to the system; they are read from the file again when they are asked for.
  void forget_pages() const;
  const std::string& path() const { return path_; }
  /// Names this very version of the file on this machine: device, inode, size, times.
  const std::string& identity() const { return identity_; }

 private:
  MappedFile() = default;
  void* base_ = nullptr;
  size_t size_ = 0;
  std::string path_;
  std::string identity_;
};

}  // namespace bp::rt
