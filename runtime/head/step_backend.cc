#include "runtime/head/step_backend.h"

namespace bp::rt {
namespace {

class GroupBackend final : public StepBackend {
 public:
  GroupBackend(std::unique_ptr<RankGroup> group, v1::DeploymentPlan plan)
      : group_(std::move(group)), plan_(std::move(plan)) {}
  std::vector<RankGroupEvent> poll(Deadline deadline) override { return group_->poll(deadline); }
  void wake() override { group_->wake(); }
  Status send_step(const v1::Step& step) override { return group_->send_step(step); }
  Status expect_group(Epoch epoch) override { return group_->expect_group(epoch, plan_); }
  void fail(Error why) override { group_->fail(std::move(why)); }
  void shutdown(const std::string& reason) override { group_->shutdown(reason); }
  bool serving() const override { return group_->serving(); }
  void fill_status(v1::HeadStatus* status) const override { group_->fill_status(status); }

 private:
  std::unique_ptr<RankGroup> group_;
  v1::DeploymentPlan plan_;
};

}  // namespace

std::unique_ptr<StepBackend> make_group_backend(std::unique_ptr<RankGroup> group,
                                                v1::DeploymentPlan plan) {
  return std::make_unique<GroupBackend>(std::move(group), std::move(plan));
}

}  // namespace bp::rt
