// TcpLink: a Link over a connected socket, encrypted. Frames: length of the plain text (4 bytes,
// little-endian, authenticated), then ChaCha20-Poly1305 text and tag; the nonce is the frame's number in its
// direction, so a frame that is changed, left out, repeated or moved is refused (kUnauthorized).
#pragma once
#include <memory>
#include <string>

#include "engine/base/fd.h"
#include "runtime/comm/link.h"
#include "runtime/comm/tcp_handshake.h"

namespace bp::rt {

inline constexpr size_t kFramePlainBytes = 64 << 10;

/// `socket` is connected and non-blocking; `label` names the peer in errors ("rank 3").
std::unique_ptr<Link> make_tcp_link(Fd socket, const LinkKeys& keys, std::string label);

}  // namespace bp::rt
