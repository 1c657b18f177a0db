// The messages of MeshCommunicator: what goes before their data, and how far each has got.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace bp::rt {

enum class Op : uint32_t { kAllReduce = 1, kAllGather, kBroadcast, kPoint, kBarrier };

inline const char* op_name(uint32_t op) {
  switch (static_cast<Op>(op)) {
    case Op::kAllReduce: return "all_reduce_i64";
    case Op::kAllGather: return "all_gather_v";
    case Op::kBroadcast: return "broadcast";
    case Op::kPoint: return "send/recv";
    case Op::kBarrier: return "barrier";
  }
  return "unknown operation";
}

/// What goes before the data of every message. Both ends are of one build on one instruction set.
struct Header {
  uint32_t op = 0;
  uint32_t number = 0;   // of the message, in its direction of its pair
  uint64_t size_bytes = 0;
};
static_assert(sizeof(Header) == 16);

inline std::string header_text(const Header& h) {
  return std::string(op_name(h.op)) + " message " + std::to_string(h.number) + " of " +
         std::to_string(h.size_bytes) + " bytes";
}

struct Outgoing {
  uint32_t to = 0;
  Header header;
  std::span<const std::byte> data;
  size_t done = 0;       // header included
  bool finished = false;
};
struct Incoming {
  uint32_t from = 0;
  Header expected, header;
  std::span<std::byte> data;
  size_t done = 0;       // header included
  bool finished = false;
};

}  // namespace bp::rt
