// What the commands about workflows, runs in bulk, schedules, limits and the journal were given.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace bp::cli {

/// Which runs: ids or names, or all that match.
struct FilterOptions {
  std::vector<std::string> ids;
  std::vector<std::string> labels;  // KEY=VALUE
  std::vector<std::string> states;
  std::string name, workflow, error_code;
  // "2h", "30d" (ago), "2026-11-23", "2026-11-23T14:00:00Z", or milliseconds since 1970
  std::string created_after, created_before, ended_after, ended_before;
  bool any() const {
    return !labels.empty() || !states.empty() || !name.empty() || !workflow.empty() ||
           !error_code.empty() || !created_after.empty() || !created_before.empty() ||
           !ended_after.empty() || !ended_before.empty();
  }
};

struct EngineOptions {
  FilterOptions filter;
  bool dry_run = false, live = false, count = false;
  uint32_t limit = 100;
  uint64_t before = 0;
  // a new run
  std::vector<std::string> inputs;  // NAME=TEXT or NAME=@FILE
  std::vector<std::string> options, limit_keys;
  std::string run_name;
  uint32_t version = 0;
  int32_t priority = 0;
  std::string delay;
  uint32_t runs = 1;
  bool wait = false;
  // one run
  std::string stage, at;
  uint64_t at_event = 0, after_event = 0;
  bool bodies = false, borrow = false, cancel = false;
  std::vector<std::string> values;
  std::string signal, payload;
  std::vector<std::string> drop_labels;
  bool set_priority = false;
  // workflows
  std::string file, other;
  // limits
  std::string key;
  uint32_t concurrency = 0, burst = 0;
  double rate_per_s = 0;
  // schedules
  std::string schedule, cron, zone, overlap = "skip", catch_up;
  uint32_t upcoming = 5;
  bool paused = false;
  // journal
  std::string archive, public_key;
  uint64_t keep_newest = 0;
};

}  // namespace bp::cli
