// What the daemon was configured with, as the shell needs it.
#pragma once
#include <functional>
#include <map>
#include <string>

#include "bp/v1/journal.pb.h"
#include "engine/base/process.h"
#include "engine/base/secret.h"
#include "engine/shell/fault_mark.h"

namespace bp::shell {

struct Settings {
  std::string version;
  ProcessId self;
  std::string boot_id;
  std::string state_dir, run_dir, cache_dir, bin_dir, plugin_dir;
  std::string node_endpoint, node_public_key;  // what nodes dial
  std::string provider = "local", device = "cpu";
  bool allow_private_stores = false;
  bool exact = false;
  std::string trace_mib;  // of the scheduler's trace of each head; empty: none
  bool embedded = false;
  bool start_paused = false;   // nothing is dispatched until a client says so
  uint32_t admit_active = 0;   // runs at work that are taken in; 0: as the measured rate allows
  FaultMark* mark = nullptr;   // outlives the shell; null: none
  std::map<std::string, v1::WorkflowDefinition> workflows;  // "default" is what a plain submit runs
  Secret secrets_key;                                       // 32 bytes
};

}  // namespace bp::shell
