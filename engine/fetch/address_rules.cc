#include "engine/fetch/address_rules.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstdint>
#include <cstring>

namespace bp::fetch {
namespace {

struct Block4 {
  uint32_t net;
  int bits;
  AddressClass is;
};

constexpr uint32_t ip4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return a << 24 | b << 16 | c << 8 | d;
}

constexpr Block4 kBlocks4[] = {
    {ip4(0, 0, 0, 0), 8, AddressClass::kPrivate},  // 0.0.0.0 reaches this host
    {ip4(127, 0, 0, 0), 8, AddressClass::kPrivate},
    {ip4(10, 0, 0, 0), 8, AddressClass::kPrivate},
    {ip4(172, 16, 0, 0), 12, AddressClass::kPrivate},
    {ip4(192, 168, 0, 0), 16, AddressClass::kPrivate},
    {ip4(100, 64, 0, 0), 10, AddressClass::kPrivate},
    {ip4(198, 18, 0, 0), 15, AddressClass::kPrivate},
    {ip4(169, 254, 0, 0), 16, AddressClass::kForbidden},
    {ip4(192, 0, 0, 0), 24,
     AddressClass::kForbidden},  // protocol assignments, some metadata services
    {ip4(224, 0, 0, 0), 3, AddressClass::kForbidden},  // multicast, reserved, broadcast
};

AddressClass classify4(uint32_t host_order) {
  for (const Block4& b : kBlocks4) {
    if ((host_order ^ b.net) >> (32 - b.bits) == 0) return b.is;
  }
  return AddressClass::kPublic;
}

uint32_t embedded4(const uint8_t* at) { return ip4(at[0], at[1], at[2], at[3]); }

AddressClass classify6(const uint8_t* a) {
  static constexpr uint8_t kZero[16] = {};
  static constexpr uint8_t kMapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  static constexpr uint8_t kNat64[12] = {0, 0x64, 0xff, 0x9b};
  if (std::memcmp(a, kMapped, 12) == 0 || std::memcmp(a, kNat64, 12) == 0) {
    return classify4(embedded4(a + 12));
  }
  if (a[0] == 0x20 && a[1] == 0x02) return classify4(embedded4(a + 2));  // 6to4
  if (std::memcmp(a, kZero, 15) == 0) return AddressClass::kPrivate;     // :: and ::1
  if (std::memcmp(a, kZero, 12) == 0) return classify4(embedded4(a + 12));
  if (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) return AddressClass::kForbidden;  // fe80::/10
  if (a[0] == 0xfe && (a[1] & 0xc0) == 0xc0)
    return AddressClass::kPrivate;                           // fec0::/10, site-local
  if ((a[0] & 0xfe) == 0xfc) return AddressClass::kPrivate;  // fc00::/7
  if (a[0] == 0xff) return AddressClass::kForbidden;         // multicast
  return AddressClass::kPublic;
}

}  // namespace

AddressClass classify_address(const sockaddr* address, socklen_t size) {
  if (address->sa_family == AF_INET && size >= sizeof(sockaddr_in)) {
    sockaddr_in in{};
    std::memcpy(&in, address, sizeof in);
    return classify4(ntohl(in.sin_addr.s_addr));
  }
  if (address->sa_family == AF_INET6 && size >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in6{};
    std::memcpy(&in6, address, sizeof in6);
    return classify6(in6.sin6_addr.s6_addr);
  }
  return AddressClass::kForbidden;
}

std::string address_text(const sockaddr* address, socklen_t size) {
  char text[INET6_ADDRSTRLEN] = "an address that is not IP";
  if (address->sa_family == AF_INET && size >= sizeof(sockaddr_in)) {
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text,
                sizeof text);
  } else if (address->sa_family == AF_INET6 && size >= sizeof(sockaddr_in6)) {
    ::inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, text,
                sizeof text);
  }
  return text;
}

}  // namespace bp::fetch
