#include "runtime/head/step_trace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>
#include <memory>

#include "engine/base/fd.h"
#include "engine/base/log.h"
#include "runtime/sched/trace.h"

namespace bp::rt {
namespace {

constexpr size_t kBufferBytes = 256 << 10;

/// Collects records and writes them in large pieces; what is left when it ends is written then.
class TraceFile {
 public:
  TraceFile(Fd fd, uint64_t bytes_max) : fd_(std::move(fd)), left_(bytes_max) {}
  ~TraceFile() { (void)flush(); }
  bool take(std::string_view record) {
    if (record.size() > left_) {
      BP_LOG(info, "trace.full", "bytes_left={}", left_);
      (void)flush();
      return false;
    }
    left_ -= record.size();
    buffer_.append(record);
    return buffer_.size() < kBufferBytes || flush();
  }

 private:
  bool flush() {
    size_t done = 0;
    while (done < buffer_.size()) {
      const ssize_t n = ::write(fd_.get(), buffer_.data() + done, buffer_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        BP_LOG(warn, "trace.ended", "error={}", errno_error("write", errno).message);
        return false;
      }
      done += static_cast<size_t>(n);
    }
    buffer_.clear();
    return true;
  }
  Fd fd_;
  uint64_t left_;
  std::string buffer_;
};

}  // namespace

Result<std::function<bool(std::string_view)>> open_step_trace(const std::string& path, uint64_t bytes_max) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return errno_error(path, errno);
  auto file = std::make_shared<TraceFile>(std::move(fd), bytes_max);
  return std::function<bool(std::string_view)>([file](std::string_view record) { return file->take(record); });
}

int replay_step_trace(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    fmt::print(stderr, "bp-head: cannot read {}\n", path);
    return 2;
  }
  const std::string trace{std::istreambuf_iterator<char>(in), {}};
  const auto report = replay_trace(trace);
  if (!report.ok()) {
    fmt::print(stderr, "bp-head: {}\n", report.error().to_string());
    return report.error().code == ErrorCode::kConflict ? 1 : 2;
  }
  fmt::print("{} calls, {} steps, {} tokens, {} refusals: the same{}\n", report->calls, report->steps,
             report->updates, report->refusals, report->cut ? "; the last record is cut off" : "");
  return 0;
}

}  // namespace bp::rt
