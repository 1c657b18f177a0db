// MeshCommunicator: collectives over one Link per peer, whatever carries it (shared memory, TCP, or some
// of each). One-shot: every rank sends its part to every other and reads all parts, in rank order.
//
// Cost, N ranks, n bytes a rank: all_gather_v N-1 messages out and in at once, (N-1) n bytes; all_reduce
// one-shot the same up to kOneShotBytes or for 2 ranks, above that reduce-scatter then all-gather:
// 2 (N-1)/N n bytes.
//
// Where all ranks share memory, sums of any size go through an Exchange instead, a buffer at a time: each rank copies
// its part in once and adds the others' parts from where they lie, after one look at each of them.
//
// Every message starts with a header (operation, number within the pair and direction, size), so that
// ranks that do not do the same thing are told apart from slow ones: kProtocol names both.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/fd.h"
#include "runtime/comm/communicator.h"
#include "runtime/comm/link.h"
#include "runtime/comm/spin.h"

namespace bp::rt {

struct MeshOptions {
  std::string name;                          // "tp" or "pp": for errors
  Epoch epoch;
  uint32_t rank = 0;                         // within the group
  std::vector<std::string> labels;           // by rank, "rank 3"; [size]
  std::vector<std::unique_ptr<Link>> links;  // by rank; ours is null; [size]
  std::shared_ptr<Doorbell> doorbell;        // when some link has no descriptor
  std::shared_ptr<Exchange> exchange;        // when all ranks share memory: sums go through it; needs a doorbell
  std::string kind;                          // for describe(): "shm", "tcp, encrypted"
  SpinPolicy spin;                           // how long to look again before sleeping
};

/// kIo when no descriptor is left.
Result<std::unique_ptr<Communicator>> make_mesh_communicator(MeshOptions options);

/// Above this many bytes groups of more than two ranks reduce in two phases.
inline constexpr size_t kOneShotBytes = 64 << 10;

}  // namespace bp::rt
