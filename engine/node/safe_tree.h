// SafeTree: puts files below a folder under names that came from outside. No name leads out of it:
// absolute ones, "..", and ones that cross a symbolic link are refused by check_path() and by the
// kernel (openat2 with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS). Any thread.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/fd.h"
#include "engine/base/result.h"

namespace bp::node {

/// The parts of "/mount/dir/name" or "mount/dir/name" (one leading slash is the mount location's).
/// kInvalidArgument names what is wrong: empty, ".", ".." parts, control characters, too long or
/// too deep.
Result<std::vector<std::string>> check_path(std::string_view path);

class SafeTree {
 public:
  /// `root` must exist.
  static Result<SafeTree> open(const std::string& root);
  /// Makes `path` a hard link to `source`; a reflink or a copy where the file systems differ.
  /// Replaces what was there. kInvalidArgument, kConflict (a folder is in the way), kDiskFull, kIo.
  Status place(const std::string& path, const std::string& source) const;
  /// Whether `path` is a plain file of that size below the root, without a symbolic link on the
  /// way.
  bool holds(const std::string& path, uint64_t size_bytes) const;

 private:
  explicit SafeTree(Fd root) : root_(std::move(root)) {}
  Fd root_;
};

/// "/var (8 MiB free)": the file system that holds `path`, for error texts.
std::string describe_file_system(const std::string& path);
/// errno_error; of a full disk it names the file system of `path`.
Error file_error(const std::string& what, int errno_value, const std::string& path);

}  // namespace bp::node
