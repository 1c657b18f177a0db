// The descriptors that a rank is started with, and its config, checked.
#pragma once
#include "bp/v1/rank.pb.h"
#include "engine/base/process.h"
#include "engine/base/result.h"

namespace bp::rt {

/// Numbers of the descriptors that bp-node hands over; see README.md.
struct RankFds {
  int config = 3;
  int lease = 4;
  int weights = 5;
  int kv = 6;
  int comm = 7;      // only where ranks of one tensor group share the node
};

/// What the node tells of the rank before this one, under the same key and epoch, which it has proven dead.
struct Predecessor {
  ProcessId process;            // pid 0: there was none
  bool memory_whole = false;    // it ended so that what it wrote into its KV segment can be believed
};
/// From the environment: BP_REPLACES ("PID:START_TICKS:BOOT_ID") and BP_MEMORY_WHOLE ("1").
Predecessor predecessor();

/// Reads and checks the config. kInvalidArgument names the field; kProtocol: no RankConfig.
Result<v1::RankConfig> read_rank_config(int fd);

}  // namespace bp::rt
