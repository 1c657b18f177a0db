// AttemptMaker: the RunAttempt message of an attempt: what the core gives, and what only the shell
// has (the daemon's options, opened secrets, large payloads). Thread: the executor's.
#pragma once
#include <map>
#include <string>

#include "engine/core/core.h"
#include "engine/shell/secret_box.h"
#include "engine/shell/settings.h"
#include "engine/shell/world.h"

namespace bp::shell {

class AttemptMaker {
 public:
  AttemptMaker(World& world, const Settings& settings, const SecretBox& box)
      : world_(world), settings_(settings), box_(box) {}
  /// kJournal, kCorruptData: a secret or a payload cannot be had.
  Result<v1::RunAttempt> make(const core::RunState& run, core::StageKey key,
                              bool with_options) const;
  /// What holds for every attempt; a run's and a stage's own win.
  std::map<std::string, std::string> options() const;

 private:
  World& world_;
  const Settings& settings_;
  const SecretBox& box_;
};

}  // namespace bp::shell
