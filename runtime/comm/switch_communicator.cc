#include "runtime/comm/switch_communicator.h"

namespace bp::rt {

void SwitchCommunicator::use(std::unique_ptr<Communicator> group) {
  BP_CHECK(group && group->rank() == rank_ && group->size() == size_);
  std::lock_guard lock(mutex_);
  group_ = std::move(group);
}

void SwitchCommunicator::drop() {
  std::unique_ptr<Communicator> old;   // its end may take a moment: outside the lock
  std::lock_guard lock(mutex_);
  old = std::move(group_);
}

void SwitchCommunicator::abort() {
  std::lock_guard lock(mutex_);
  if (group_) group_->abort();
}

Status SwitchCommunicator::none() const {
  return Error{ErrorCode::kStaleEpoch, "this rank is in no group now", {}};
}

}  // namespace bp::rt
