// ShmSegment: the shared memory of one tensor group on one node ("comm-P"), made anew for every epoch.
//
// Layout, all offsets derived from (ranks, size) and checked against the header, never read from it:
//   page 0            SegmentHeader
//   then              RankSlot[ranks], 128 bytes each: who is attached, and its doorbell
//   then              RingControl[ranks * ranks], 128 bytes each: ring (from, to) at from * ranks + to
//   then, page-aligned ranks * ranks rings of ring_bytes (a power of two, at least kRingBytesMin)
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

inline constexpr size_t kRingBytesMin = 4 << 10;
inline constexpr size_t kRingBytesMax = 4 << 20;

/// The least bytes a segment for `ranks` ranks must have.
uint64_t shm_segment_bytes_min(uint32_t ranks);

class ShmSegment : public Doorbell {
 public:
  /// Maps `fd`, writes or checks the header, takes the slot of `rank`, and waits until `members` (ranks
  /// that attach too) are there. kStaleEpoch: the segment belongs to another epoch; kCorruptData: its
  /// header is of another layout; kDoesNotFit: too small; kConflict: the slot is taken by a living
  /// process; kDeadlineExceeded names who is missing.
  static Result<std::shared_ptr<ShmSegment>> attach(int fd, Epoch epoch, uint32_t rank, uint32_t ranks,
                                                    const std::vector<uint32_t>& members,
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

  struct RingControl;
  struct RankSlot;
  RingControl& control(uint32_t from, uint32_t to);
  std::byte* ring_data(uint32_t from, uint32_t to);

 private:
  ShmSegment() = default;
  RankSlot& slot(uint32_t rank);
  Status open_header(Epoch epoch, Deadline deadline);
  Status take_slot();
  Status wait_for(const std::vector<uint32_t>& members, Deadline deadline);

  std::byte* base_ = nullptr;
  size_t size_bytes_ = 0;
  uint32_t rank_ = 0, ranks_ = 0;
  size_t ring_bytes_ = 0, rings_at_ = 0;
  bool attached_ = false;
  std::vector<Fd> peer_pidfds_;  // by rank; empty for ourselves and ranks of this process
};

}  // namespace bp::rt
