// What the head and the ranks of one group agree on beside the messages of rank.proto.
#pragma once
#include <cstdint>

namespace bp::rt {

/// RankHello.protocol; peers of another one are refused.
inline constexpr uint32_t kRankProtocol = 1;
/// A rank repeats its hello this often until it is welcome.
inline constexpr int64_t kHelloMs = 200;
/// Leases are renewed this many times per lease; a rank that answers none of three is lost.
inline constexpr int64_t kBeatsPerLease = 4;
inline constexpr int64_t kLostAfterBeats = 3;

}  // namespace bp::rt
