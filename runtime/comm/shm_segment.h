// ShmSegment: the shared memory of one tensor group on one node ("comm-P"), made anew for every epoch, and laid
// out anew by its first rank for every generation of the group within it: by then every rank of the generation before
// has left it or is proven dead.
//
// Layout, all offsets derived from (ranks, size) and checked against the header, never read from it:
//   page 0            SegmentHeader
//   then              RankSlot[ranks], 128 bytes each: who is attached, and its doorbell
//   then              RingControl[ranks * ranks], 128 bytes each: ring (from, to) at from * ranks + to
//   then              RoundSlot[ranks], 128 bytes each: the round that a rank published last, and its size
//   then, page-aligned ranks * 2 buffers of kExchangeBytes for sums (Exchange in link.h)
//   then              ranks * ranks rings of ring_bytes (a power of two, at least kRingBytesMin)
//
// A ring has one writer and one reader: `written` and `taken` count bytes, each stored by its owner
// only (seq_cst: see ring()). A rank that sleeps waits on the futex in its slot; whoever moves one of its rings rings.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/epoch.h"
#include "engine/base/fd.h"
#include "engine/base/process.h"
#include "engine/base/result.h"
#include "runtime/comm/link.h"

namespace bp::rt {

inline constexpr size_t kExchangeBytes = 64 << 10;
inline constexpr size_t kRingBytesMin = 4 << 10;
inline constexpr size_t kRingBytesMax = 4 << 20;

/// The least bytes a segment for `ranks` ranks must have.
uint64_t shm_segment_bytes_min(uint32_t ranks);

class ShmSegment : public Doorbell, public Exchange {
 public:
  /// Maps `fd`; one rank writes the header, the others wait for it; takes the slot of `rank`, and waits until
  /// `members` (ranks that attach too) are there. kStaleEpoch: the segment belongs to another epoch or
  /// generation; kCorruptData: its header is of another layout; kDoesNotFit: too small; kConflict: the slot is
  /// taken by a living process; kDeadlineExceeded names who is missing; kCancelled by `who.cancelled`.
  struct Who {
    Epoch epoch;
    uint64_t generation = 1;
    uint32_t rank = 0, ranks = 0;              // place in the group, and its size
    bool lays_out = false;                     // exactly one of those who share the segment
    std::function<bool()> cancelled = {};      // may be empty; looked at every few milliseconds
  };
  static Result<std::shared_ptr<ShmSegment>> attach(int fd, const Who& who, const std::vector<uint32_t>& members,
                                                    Deadline deadline);
  /// Tells the others that this rank has left.
  ~ShmSegment() override;
  ShmSegment(const ShmSegment&) = delete;

  std::unique_ptr<Link> link(uint32_t peer, std::string label);
  size_t ring_bytes() const { return ring_bytes_; }

  void wait(const std::function<bool()>& ready, int64_t wait_ns) override;
  void ring_self() override { ring(rank_); }
  /// Wakes `rank` when it sleeps.
  void ring(uint32_t rank);
  /// kPeerLost when `peer` has left or its process has ended.
  Status check_peer(uint32_t peer, const std::string& label);

  size_t buffer_bytes() const override { return kExchangeBytes; }
  std::byte* mine(uint64_t round) override { return buffer(rank_, round); }
  void publish(uint64_t round, uint64_t size_bytes) override;
  const std::byte* of(uint32_t rank, uint64_t round, uint64_t* size_bytes) override;
  void part_from(uint32_t rank) override;

  struct RingControl;
  struct RankSlot;
  struct RoundSlot;
  RingControl& control(uint32_t from, uint32_t to);
  std::byte* ring_data(uint32_t from, uint32_t to);

 private:
  ShmSegment() = default;
  RankSlot& slot(uint32_t rank);
  RoundSlot& round_slot(uint32_t rank);
  std::byte* buffer(uint32_t rank, uint64_t round);
  void lay_out(const Who& who);
  Status open_header(const Who& who, Deadline deadline);
  Status take_slot();
  Status wait_for(const Who& who, const std::vector<uint32_t>& members, Deadline deadline);

  std::byte* base_ = nullptr;
  size_t size_bytes_ = 0;
  uint32_t rank_ = 0, ranks_ = 0;
  size_t ring_bytes_ = 0, buffers_at_ = 0, rings_at_ = 0;
  bool attached_ = false;
  int64_t moved_ns_ = 0;         // when part_from() moved us last
  std::vector<Fd> peer_pidfds_;  // by rank; empty for ourselves and ranks of this process
};

}  // namespace bp::rt
