#include "runtime/head/head_config.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "engine/base/limits.h"

namespace bp::rt {

Result<v1::HeadConfig> read_head_config(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0)
    return errno_error(fmt::format("descriptor {} with the configuration", fd), errno);
  if (st.st_size <= 0 || static_cast<uint64_t>(st.st_size) > limits::kMessageBytes) {
    return Error{ErrorCode::kProtocol,
                 fmt::format("descriptor {}: found {} bytes, expected 1 to {}", fd, st.st_size,
                             limits::kMessageBytes),
                 {}};
  }
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = ::pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_error(fmt::format("descriptor {}", fd), n < 0 ? errno : EIO);
    done += static_cast<size_t>(n);
  }
  v1::HeadConfig c;
  if (!c.ParseFromString(bytes)) {
    return Error{
        ErrorCode::kProtocol,
        fmt::format("descriptor {}: {} bytes are not a bp.v1.HeadConfig", fd, bytes.size()),
        {}};
  }
  auto bad = [](const std::string& field, const std::string& expected) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("HeadConfig.{}: expected {}", field, expected),
                 {}};
  };
  if (c.address().empty()) return bad("address", "an IP address");
  for (uint32_t port : {c.http_port(), c.rendezvous_port(), c.dashboard_port(), c.metrics_port(),
                        c.client_port()}) {
    if (port > 65535) return bad("ports", fmt::format("at most 65535, found {}", port));
  }
  if (c.model_path().empty()) return bad("model_path", "an absolute path");
  if (c.curve_public_key().size() != 40 || c.curve_secret_key().size() != 40)
    return bad("curve keys", "40 characters each");
  const auto& plan = c.plan();
  if (plan.ranks_size() == 0) return bad("plan.ranks", "at least one rank");
  if (plan.kv_blocks() == 0 || plan.kv_block_tokens() == 0 || plan.max_context_tokens() == 0) {
    return bad("plan", "kv_blocks, kv_block_tokens and max_context_tokens above 0");
  }
  return c;
}

}  // namespace bp::rt
