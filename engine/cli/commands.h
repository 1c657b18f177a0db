// The commands of bp. Each returns the exit code: 0 done, 1 the deployment failed, 2 bad usage or
// recipe, 3 no daemon reached, 4 no such thing. Results go to standard output, everything else to
// standard error.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "bp/v1/common.pb.h"
#include "engine/base/error.h"
#include "engine/cli/embedded.h"
#include "engine/cli/engine_options.h"
#include "engine/cli/generate.h"
#include "engine/cli/paths.h"

namespace bp::cli {

struct Options {
  Paths paths;
  bool json = false;
  int64_t timeout_s = 3600;  // of commands that wait
  // recipes
  std::string recipe_file;  // "-": standard input
  std::string par_file;
  std::string idempotency_key;
  std::string workflow;
  EmbeddedOptions daemon;  // provider and device also go with the recipe
  bool wait = false;
  // one deployment
  std::string id;
  std::string stage, process, reason;
  bool follow = false, until_ready = false, no_wait = false, all = false, replay = false;
  std::string out_file;
  bool binary = false;  // generate over the head's client port
  GenerateOptions generate;
  EngineOptions engine;
};

int run_up(const Options& o);
int run_submit(const Options& o);
int run_plan(const Options& o);
int run_list(const Options& o);
int run_show(const Options& o);
int run_watch(const Options& o);
int run_logs(const Options& o);
int run_generate(const Options& o);
int run_access(const Options& o);
int run_cancel(const Options& o);
int run_retry(const Options& o);
int run_stop(const Options& o);
int run_doctor(const Options& o);
int run_daemon_stop(const Options& o);
int run_daemon_status(const Options& o);
int run_daemon_upgrade(const Options& o);
int run_daemon_pause(const Options& o);  // and resume
// runs of any workflow
int run_start(const Options& o);
int run_fork(const Options& o);
int run_pause(const Options& o);
int run_resume(const Options& o);
int run_cancel_many(const Options& o);
int run_stop_many(const Options& o);
int run_retry_many(const Options& o);
int run_release(const Options& o);
int run_migrate(const Options& o);
int run_signal(const Options& o);
int run_change(const Options& o);
int run_history(const Options& o);
int run_query(const Options& o);
// definitions, limits, schedules
int run_workflow_register(const Options& o);
int run_workflow_list(const Options& o);
int run_workflow_show(const Options& o);
int run_workflow_diff(const Options& o);
int run_limit_set(const Options& o);
int run_limit_list(const Options& o);
int run_schedule_set(const Options& o);
int run_schedule_drop(const Options& o);
int run_schedule_list(const Options& o);
int run_schedule_trigger(const Options& o);
// plugins
/// Becomes bp-plugin-test, which lies beside this program, with these arguments; returns only when it cannot.
int run_plugin_test(const std::vector<std::string>& arguments);
// the journal
int run_journal_backup(const Options& o);
int run_journal_export(const Options& o);
int run_journal_import(const Options& o);
int run_journal_check(const Options& o);
int run_journal_archive(const Options& o);
int run_journal_rebuild_search(const Options& o);
int run_replay(const Options& o);
// without a daemon
int run_journal_verify(const Options& o);
int run_journal_restore(const Options& o);
int run_show_archived(const Options& o);
int run_history_archived(const Options& o);

}  // namespace bp::cli
