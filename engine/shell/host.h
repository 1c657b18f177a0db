// One stage host process as the shell sees it. Inner part of hosts.h.
#pragma once
#include <optional>

#include "engine/shell/hosts.h"

namespace bp::shell {

struct Hosts::Host {
  core::Attempt ref;
  ProcessId process;
  uint32_t plugin_version = 0;  // asked for; 0: any
  bool fresh = false;           // this daemon started it
  bool greeted = false;         // it has a connection to this daemon
  bool may_send = false;        // its identity is on record: RunAttempt may go out
  bool sent = false;            // RunAttempt went out from this daemon
  bool acknowledged = false;    // its result is on record; it is to exit
  int64_t heard_boot_ms = 0;
  Executor::TimerId beat_timer = 0, exit_timer = 0;
  std::optional<v1::CancelAttempt> cancel;
  std::optional<v1::Progress> progress;
  std::string checkpoint, handle;  // last ones fed to the journal
  bool ready_fed = false, result_fed = false;
};

}  // namespace bp::shell
