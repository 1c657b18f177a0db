#include "engine/base/address_claim.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace bp {

Result<Fd> claim_address(const std::string& address) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const std::string text = "bp-node/" + address;
  if (text.size() + 1 > sizeof name.sun_path) {
    return Error{ErrorCode::kInvalidArgument,
                 "address of " + std::to_string(address.size()) + " bytes, at most " +
                     std::to_string(sizeof name.sun_path - 9) + " expected", {}};
  }
  std::memcpy(name.sun_path + 1, text.data(), text.size());  // a leading 0 makes it abstract
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_error("claim address " + address, errno);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), size) != 0) {
    if (errno != EADDRINUSE) return errno_error("claim address " + address, errno);
    return Error{ErrorCode::kPortBusy, "address " + address + " belongs to another node of this machine", {}};
  }
  return fd;
}

}  // namespace bp
