// serve: a canary completion through all ranks, then `ready` with "endpoint" (EndpointReady), then it
// watches until it is cancelled. What breaks makes it go back: a rank or the group to join_workers, the
// head to start_head, a node to provision. Options: drain_ms (5000), watch_ms (1000).
// Destroy: the head takes no more requests and gets drain_ms to end those it has.
#pragma once
#include "plugins/sdk/stage.h"

namespace bp::stages {

class Serve : public sdk::Stage {
 public:
  sdk::StageResult run(sdk::StageContext& ctx) override;
  sdk::StageResult destroy(sdk::StageContext& ctx) override;
};

}  // namespace bp::stages
