// One stage host of the simulated world. Inner part of world.h.
#pragma once
#include "tests/sim/world.h"

namespace bp::sim {

struct World::Host {
  std::string id;
  ProcessId process;
  bool living = true, acting = false, heard = false, cancelled = false, ignores_cancel = false,
       mute = false;
  v1::AttemptRef ref;
  v1::AttemptMode mode = v1::ATTEMPT_MODE_UNSPECIFIED;
  bool keeps = false, ready = false;
  std::unique_ptr<v1::AttemptResult> result;
  int64_t heard_at = 0;
  std::function<void(std::string)> watcher;
};

}  // namespace bp::sim
