// Configuration of bp-daemon: options, a JSON file with the same names, defaults. Options win.
#pragma once
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace bp::daemon {

struct Config {
  std::string state_dir, run_dir, plugin_dir, workflow_dir;
  std::string provider = "local", device = "cpu";
  bool allow_private_stores = false, exact = false, embedded = false, start_paused = false;
  uint32_t admit_active = 0;  // runs at work that are taken in; 0: as many as the rate allows
  std::string log_level = "info", log_file;
  std::string trace_mib;  // of the scheduler's trace of each head; empty: none
};

/// Sets what `path` names and `is_set` (option given on the command line) does not claim.
/// kInvalidArgument names an unknown member or a wrong type.
Status read_config(const std::string& path, const std::vector<std::string>& given, Config* config);

/// Fills in the folders that were not named, from the environment and from where this program lies.
Status fill_defaults(Config* config);

}  // namespace bp::daemon
