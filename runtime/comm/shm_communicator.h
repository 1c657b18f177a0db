// A communicator over the shared memory of one node: all ranks of the group attach to one segment.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/communicator.h"

namespace bp::rt {

struct ShmOptions {
  std::string name;                 // "tp"
  int fd = -1;                      // the segment; not closed
  Epoch epoch;
  uint32_t rank = 0;                // within the group
  std::vector<std::string> labels;  // by rank, for errors; [size]
  Deadline deadline = Deadline::in_ms(0);  // for all ranks to attach
};

/// Errors of ShmSegment::attach.
Result<std::unique_ptr<Communicator>> make_shm_communicator(const ShmOptions& options);

/// How long a rank looks again before it sleeps, with `ranks` of them on this machine: long where each
/// has a core, short where spinning would keep the peer from running.
int64_t spin_ns_for(uint32_t ranks);

}  // namespace bp::rt
