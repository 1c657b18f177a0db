#include "plugins/provision/address_block.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>

#include "engine/base/address_claim.h"

namespace bp::stages {
namespace {

constexpr uint32_t kFirstHost = 10;

// Binds as bp-head will and lets go. Not listening: two that look at the same time do not see each other.
Status can_listen(const std::string& address, uint32_t port) {
  const std::string name = address + ":" + std::to_string(port);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(static_cast<uint16_t>(port));
  BP_CHECK(::inet_pton(AF_INET, address.c_str(), &at.sin_addr) == 1);
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_error("socket for " + name, errno);
  const int on = 1;
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0) return {};
  return errno_error("cannot listen on " + name, errno);
}

}  // namespace

std::string block_prefix(uint32_t block) {
  return "127." + std::to_string(64 + block / 256 % 64) + "." + std::to_string(block % 256) + ".";
}

std::string address_in(const std::string& prefix, uint32_t index) {
  return index > 254 - kFirstHost ? std::string() : prefix + std::to_string(kFirstHost + index);
}

std::optional<std::string> prefix_of(const std::string& address) {
  unsigned b = 0, c = 0, d = 0;
  char more = 0;
  if (std::sscanf(address.c_str(), "127.%3u.%3u.%3u%c", &b, &c, &d, &more) != 3 || b < 64 || b > 127 || c > 255) {
    return std::nullopt;
  }
  return block_prefix((b - 64) * 256 + c);
}

// FNV-1a, 64 bit (http://www.isthe.com/chongo/tech/comp/fnv/).
uint32_t first_block(const std::string& state_dir, uint64_t run_number) {
  uint64_t hash = 14695981039346656037u;
  for (unsigned char c : state_dir) hash = (hash ^ c) * 1099511628211u;
  return static_cast<uint32_t>((hash ^ (hash >> 32)) % kAddressBlocks + run_number % kAddressBlocks) % kAddressBlocks;
}

Status block_is_free(const std::string& prefix, const BlockNeeds& needs) {
  for (uint32_t index : needs.indexes) {
    const std::string address = address_in(prefix, index);
    if (address.empty()) {
      return Error{ErrorCode::kUnsupported, "local nodes have room for 245 in a deployment, index " +
                                                std::to_string(index) + " is asked for", {}};
    }
    BP_TRY(claim_address(address));
  }
  for (uint32_t port : needs.head_ports) {
    if (port != 0) BP_TRY(can_listen(address_in(prefix, needs.head_index), port));
  }
  return {};
}

Result<std::string> choose_block(uint32_t first, const BlockNeeds& needs) {
  std::optional<Error> why;
  for (uint32_t i = 0; i < kBlocksTried; ++i) {
    const std::string prefix = block_prefix((first + i) % kAddressBlocks);
    Status free = block_is_free(prefix, needs);
    if (free.ok()) return prefix;
    if (free.error().code != ErrorCode::kPortBusy) return free.error();
    if (!why) why = free.error();
  }
  return Error{ErrorCode::kPortBusy,
               why->message + "; neither do " + std::to_string(kBlocksTried - 1) +
                   " other addresses have it free: what listens on 0.0.0.0 takes a port on all of them", {}};
}

}  // namespace bp::stages
