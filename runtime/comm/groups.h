// Groups of a rank: its tensor group (same pp_rank, by tp_rank) and its pipeline group (same tp_rank, by
// pp_rank), each over the best way there is: shared memory between members of one tensor group on one node,
// encrypted TCP between all others.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/secret.h"
#include "runtime/comm/communicator.h"
#include "runtime/comm/tcp_connect.h"

namespace bp::rt {

struct GroupMember {
  uint32_t tp_rank = 0, pp_rank = 0;
  std::string node_id;
  std::string data_endpoint;   // "ADDRESS:PORT"
};

struct GroupsOptions {
  Epoch epoch;
  uint64_t generation = 1;              // within the epoch
  uint32_t rank = 0;
  std::vector<GroupMember> members;     // by global rank
  const DataListener* listener = nullptr;
  int comm_fd = -1;                     // segment of the tensor group; may be -1 where no member shares our node
  Secret data_key;
  Deadline deadline = Deadline::in_ms(0);
  uint32_t busy_threads = 0;            // compute threads of all ranks on this machine
  std::function<bool()> cancelled;      // looked at every few milliseconds; may be empty
};

struct Groups {
  std::unique_ptr<Communicator> tp, pp;
};

/// kInvalidArgument: the members are no full tp x pp grid, or a segment is missing; errors of
/// ShmSegment::attach and connect_peers, kCancelled among them.
Result<Groups> form_groups(const GroupsOptions& options);

}  // namespace bp::rt
