// The conformance kit for stage plugins: `bp plugin test FILE.so`. Drives a plugin in a real stage host, with
// the kit in the daemon's place, through apply, observe, cancel, destroy and recover, with faults in between,
// and says what it breaks. Every check starts hosts of its own, so a crash costs that check alone.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "bp/v1/stage.pb.h"
#include "engine/base/result.h"

namespace bp::kit {

struct Options {
  std::string host_program;        // bp-stage-host, or bp_stage_host.py for a plugin in Python
  std::string plugin;              // absolute path
  std::string folder;              // for sockets; exists, empty, ours
  std::map<std::string, std::string> inputs, options, secrets;
  int64_t apply_ms = 30'000;       // an apply, or reaching `ready`, may take so long
  int64_t cancel_ms = 5'000;       // an attempt that is told to end
  std::vector<std::string> only;   // these checks, and what they build on; empty: all
  bool outputs_vary = false;       // a second apply may give other outputs
};

struct Finding {
  enum Verdict { kKept, kBroken, kSkipped };
  std::string check;    // "apply_again"
  Verdict verdict = kKept;
  std::string text;     // what was found; why it was skipped
};

/// All checks in order. A plugin that cannot be loaded, or whose plain apply fails, leaves the rest of the
/// checks that build on it skipped, and says so. Errors are only of the kit itself (no host program).
Result<std::vector<Finding>> run_kit(const Options& options);

/// Names of all checks with what each demands.
std::vector<std::pair<std::string, std::string>> checks();

}  // namespace bp::kit
