// Which network addresses a store may have. Judged on the address that a socket is about to connect
// to, so that no name (DNS rebinding, odd spellings of an address) gets past it. Pure; any thread.
#pragma once
#include <sys/socket.h>

#include <string>

namespace bp::fetch {

enum class AddressClass {
  kPublic,
  kPrivate,    // loopback, RFC 1918, carrier NAT, unique local: only with allow_private
  kForbidden,  // link-local (cloud metadata lives there), multicast, reserved, not IP at all: never
};

/// Classes by RFC 6890 and its updates; IPv4 inside IPv6 (mapped, NAT64, 6to4) is judged as that
/// IPv4.
AddressClass classify_address(const sockaddr* address, socklen_t size);
/// "169.254.169.254" or "fe80::1" for error texts.
std::string address_text(const sockaddr* address, socklen_t size);

}  // namespace bp::fetch
