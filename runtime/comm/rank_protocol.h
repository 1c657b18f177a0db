// What the head and the ranks of one group agree on beside the messages of rank.proto.
#pragma once
#include <cstdint>

namespace bp::rt {

/// RankHello.protocol; peers of another one are refused.
inline constexpr uint32_t kRankProtocol = 2;
/// A rank repeats its hello this often until it is welcome.
inline constexpr int64_t kHelloMs = 200;
/// Leases are renewed this many times per lease; a rank that answers none of three is lost.
inline constexpr int64_t kBeatsPerLease = 8;
inline constexpr int64_t kLostAfterBeats = 3;
/// A group that lost a rank waits so long for the next generation to be whole: longer than a lease, after which a
/// node kills a rank that nobody hears, and a start. Then the group is broken.
inline constexpr int64_t kRegroupMs = 4'000;
/// Generations in a row that brought no step: then the group is broken.
inline constexpr uint32_t kRegroupsInVain = 12;

}  // namespace bp::rt
