// join_workers: one bp-rank per GPU, all in one group of this attempt's epoch, loaded and connected.
// Inputs: "validate.plan", "provision.pool", "fetch_weights.weights", "start_head.head", secrets
// rank_secret_key, control_secret_key. Output: "ranks" (RanksReady).
// A group that serves and whose ranks all live is kept. A rank that ends: kPeerLost with its last log
// lines, retriable. The head gone: back to start_head; a node gone: back to provision.
// Destroy: StopProcess for every rank.
#pragma once
#include "plugins/sdk/stage.h"

namespace bp::stages {

class JoinWorkers : public sdk::Stage {
 public:
  sdk::StageResult run(sdk::StageContext& ctx) override;
  sdk::StageResult destroy(sdk::StageContext& ctx) override;
};

/// Bytes of the shared memory of a tensor group: a ring for every ordered pair of its ranks, and a header.
uint64_t comm_segment_bytes(uint32_t tp_size);

}  // namespace bp::stages
