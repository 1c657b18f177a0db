// The fault mark as a mapped file: what is written there survives this process, however it dies.
#pragma once
#include <memory>
#include <string>

#include "engine/base/result.h"
#include "engine/shell/fault_mark.h"

namespace bp::daemon {

class MarkFile {
 public:
  /// Creates the file when there is none. kIo, kPermission, kDiskFull.
  static Result<std::unique_ptr<MarkFile>> open(const std::string& path);
  ~MarkFile();
  MarkFile(const MarkFile&) = delete;
  MarkFile& operator=(const MarkFile&) = delete;
  shell::FaultMark* mark() { return mark_; }

 private:
  explicit MarkFile(shell::FaultMark* mark) : mark_(mark) {}
  shell::FaultMark* mark_;
};

}  // namespace bp::daemon
