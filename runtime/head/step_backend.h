// StepBackend: what executes steps, as the engine loop sees it. RankGroup in bp-head; tests have
// their own. The rules of rank_group.h hold: one thread, poll() often, any thread for wake, serving
// and fill_status.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "runtime/head/rank_group.h"

namespace bp::rt {

class StepBackend {
 public:
  virtual ~StepBackend() = default;
  virtual std::vector<RankGroupEvent> poll(Deadline deadline) = 0;
  virtual void wake() = 0;
  virtual Status send_step(const v1::Step& step) = 0;
  virtual Status expect_group(Epoch epoch) = 0;
  virtual void fail(Error why) = 0;
  virtual void shutdown(const std::string& reason) = 0;
  virtual bool serving() const = 0;
  virtual void fill_status(v1::HeadStatus* status) const = 0;
};

/// Over a rank group, for one plan.
std::unique_ptr<StepBackend> make_group_backend(std::unique_ptr<RankGroup> group,
                                                v1::DeploymentPlan plan);

}  // namespace bp::rt
