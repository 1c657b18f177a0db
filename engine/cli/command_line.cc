#include "engine/cli/command_line.h"

namespace bp::cli {

CommandLine::CommandLine() {
  app_.require_subcommand(1);
  app_.fallthrough();
  app_.footer(
      "Examples:\n"
      "  bp up examples/recipes/quickstart.json --par-file par.txt --allow-private-stores\n"
      "  bp list\n"
      "  bp generate quickstart \"What is the capital of France?\"\n"
      "  bp stop quickstart\n\n"
      "Exit codes: 0 done, 1 the deployment failed, 2 bad usage or bad recipe, 3 no daemon "
      "reached,\n"
      "4 no such thing. An ID may be an id or a name.");
  add_recipe_commands();
  add_run_commands();
  add_control_commands();
  add_generate();
  add_any_run_commands();
  add_bulk_commands();
  add_workflow_commands();
  add_schedule_commands();
  add_journal_commands();
  add_plugin_commands();
}

CLI::App* CommandLine::add(CLI::App* parent, const char* name, const char* what,
                           const char* examples, Command run) {
  CLI::App* c = parent->add_subcommand(name, what);
  c->footer(std::string("Examples:\n") + examples);
  c->fallthrough(false);
  c->add_flag("--json", options_.json, "Print JSON; one object a line where there are many");
  c->add_option("--state-dir", options_.paths.state_dir,
                "The daemon's state folder ($BP_STATE_DIR)");
  c->add_option("--run-dir", options_.paths.run_dir,
                "The daemon's run folder, with its socket ($BP_RUN_DIR)");
  c->add_option("--endpoint", options_.paths.endpoint, "The daemon's socket itself: ipc://PATH");
  c->callback([this, run = std::move(run)] { command_ = run; });
  return c;
}

void CommandLine::waiting(CLI::App* c) {
  c->add_option("--timeout", options_.timeout_s, "Seconds to wait at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 604800));
}

CLI::App* CommandLine::with_id(CLI::App* c) {
  c->add_option("ID", options_.id, "Id or name of the deployment")->required();
  return c;
}

void CommandLine::recipe_options(CLI::App* c) {
  c->add_option("RECIPE", options_.recipe_file, "JSON file, or - for standard input")->required();
  c->add_option("--par-file", options_.par_file,
                "File with the pre-authenticated address (one for all storages, or one a line); - "
                "for standard input");
  c->add_option("--provider", options_.daemon.provider, "What makes nodes: local");
  c->add_option("--device", options_.daemon.device, "What computes: cpu");
}

void CommandLine::add_recipe_commands() {
  CLI::App* up = add(
      &app_, "up", "Start a daemon if none runs, deploy a recipe, wait until it serves",
      "  bp up recipe.json --par-file par.txt\n  bp up recipe.json --allow-private-stores --exact\n"
      "  generate-recipe | bp up -\n",
      run_up);
  recipe_options(up);
  waiting(up);
  up->add_option("--idempotency-key", options_.idempotency_key,
                 "Submits under one key make one deployment");
  up->add_option("--workflow", options_.workflow, "Name of an installed workflow");
  up->add_flag("--allow-private-stores", options_.daemon.allow_private_stores,
               "Let the daemon fetch from loopback and private addresses");
  up->add_flag("--exact", options_.daemon.exact, "FP32 activations, to compare with references");
  CLI::App* submit =
      add(&app_, "submit", "Hand a recipe to the running daemon",
          "  bp submit recipe.json --wait\n  bp submit recipe.json --idempotency-key nightly-42\n",
          run_submit);
  recipe_options(submit);
  waiting(submit);
  submit->add_option("--idempotency-key", options_.idempotency_key,
                     "Submits under one key make one deployment");
  submit->add_option("--workflow", options_.workflow, "Name of an installed workflow");
  submit->add_flag("--wait", options_.wait, "Wait until it serves, showing the stages");
  CLI::App* plan =
      add(&app_, "plan", "Check a recipe and show what it would become; needs no daemon",
          "  bp plan recipe.json\n  bp plan recipe.json --par-file par.txt --json\n", run_plan);
  recipe_options(plan);
  plan->add_flag("--allow-private-stores", options_.daemon.allow_private_stores,
                 "Look into stores at loopback and private addresses");
}

void CommandLine::add_run_commands() {
  CLI::App* list = add(&app_, "list", "Runs and deployments: the live ones, or what a filter finds",
                       "  bp list\n  bp list --all --json\n"
                       "  bp list --state failed --label team=a --ended-after 2h\n"
                       "  bp list --all --count\n",
                       run_list);
  list->add_flag("--all", options_.all,
                 "Ended ones too (implied by a filter that only they can match)");
  filter_options(list, false);
  list->add_option("--limit", options_.engine.limit, "At most so many")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  list->add_option("--before", options_.engine.before,
                   "The next page: only runs with smaller numbers");
  list->add_flag("--count", options_.engine.count, "Only how many there are in each state");
  CLI::App* show = with_id(add(&app_, "show", "One deployment: stages, nodes, processes, endpoint",
                               "  bp show quickstart\n  bp show quickstart --json\n"
                               "  bp show quickstart --at 15      (as it stood after event 15)\n"
                               "  bp show quickstart --at 2h      (two hours ago)\n",
                               run_show));
  show->add_option("--archive", options_.engine.archive, "From this file instead of the journal");
  show->add_option("--at", options_.engine.at,
                   "An event's number, a time, or how long ago (10m, 2h)");
  CLI::App* watch = with_id(
      add(&app_, "watch", "A deployment's changes as they happen",
          "  bp watch quickstart\n  bp watch quickstart --until-ready --json\n", run_watch));
  watch->add_flag("--until-ready", options_.until_ready, "End once it serves");
  waiting(watch);
  CLI::App* logs = with_id(add(&app_, "logs", "What stages and processes logged",
                               "  bp logs quickstart --stage fetch_weights --follow\n"
                               "  bp logs quickstart --process rank-0\n",
                               run_logs));
  logs->add_option("--stage", options_.stage, "Only this stage");
  logs->add_option("--process", options_.process, "The log of a head or rank: head, rank-0, ...");
  logs->add_flag("--follow", options_.follow, "Go on until the deployment ends");
  waiting(logs);
  CLI::App* doctor =
      add(&app_, "doctor", "Check machine, journal and live deployments, and say what to do",
          "  bp doctor\n  bp doctor --replay --json\n", run_doctor);
  doctor->add_flag("--replay", options_.replay,
                   "Also compute every live deployment anew from its events");
  waiting(doctor);
}

void CommandLine::add_control_commands() {
  CLI::App* cancel = with_id(add(&app_, "cancel", "End a deployment that is not wanted any more",
                                 "  bp cancel quickstart --reason \"wrong model\"\n", run_cancel));
  cancel->add_option("--reason", options_.reason, "Why, for the record");
  cancel->add_flag("--no-wait", options_.no_wait, "Return once it is accepted");
  waiting(cancel);
  CLI::App* retry =
      with_id(add(&app_, "retry", "Try a failed deployment again, keeping what is whole",
                  "  bp retry quickstart --wait\n", run_retry));
  retry->add_flag("--wait", options_.wait, "Wait until it serves, showing the stages");
  waiting(retry);
  CLI::App* stop = with_id(add(&app_, "stop", "Tear a deployment down until nothing of it is left",
                               "  bp stop quickstart\n  bp stop quickstart --no-wait\n", run_stop));
  stop->add_flag("--no-wait,!--wait", options_.no_wait, "Return once it is accepted");
  waiting(stop);
  CLI::App* daemon = app_.add_subcommand("daemon", "The daemon itself");
  daemon->require_subcommand(1);
  daemon->footer("Examples:\n  bp daemon status\n  bp daemon pause\n  bp daemon stop\n");
  add(daemon, "stop", "End the embedded daemon; deployments serve on", "  bp daemon stop\n",
      run_daemon_stop);
  CLI::App* pause = add(daemon, "pause", "Dispatch nothing; what runs goes on",
                        "  bp daemon pause\n", run_daemon_pause);
  pause->preparse_callback([this](size_t) { options_.engine.paused = true; });
  add(daemon, "resume", "Dispatch again (also after --start-paused)", "  bp daemon resume\n",
      run_daemon_pause);
  add(daemon, "upgrade", "Take up the program that is installed now; what runs goes on",
      "  bp daemon upgrade\n", run_daemon_upgrade);
  add(daemon, "status", "Which daemon answers", "  bp daemon status\n", run_daemon_status);
}

void CommandLine::add_generate() {
  CLI::App* c = with_id(
      add(&app_, "generate", "One streamed answer from a deployment",
          "  bp generate quickstart \"What is the capital of France?\"\n"
          "  bp generate quickstart \"A story\" --max-tokens 100 --temperature 0.8 --seed 7\n"
          "  bp generate quickstart - <prompt.txt\n",
          run_generate));
  auto& g = options_.generate;
  c->add_option("PROMPT", g.prompt, "What to ask; - for standard input")->required();
  c->add_option("--system", g.system, "System message");
  c->add_option("--max-tokens", g.max_tokens, "Length of the answer at most")
      ->capture_default_str();
  c->add_option("--temperature", g.temperature, "0 takes the likeliest token")
      ->capture_default_str()

      ->check(CLI::Range(0.0, 2.0));
  c->add_option("--top-p", g.top_p, "Nucleus sampling")->check(CLI::Range(0.0, 1.0));
  c->add_option("--top-k", g.top_k, "Only the K likeliest tokens");
  c->add_option("--seed", g.seed, "The same seed gives the same answer");
  c->add_option("--stop", g.stop, "End before this text (may be given several times)");
  c->add_flag("--binary", options_.binary,
              "Over the binary client protocol (rayclient_server_port) instead of HTTP");
  CLI::App* access =
      with_id(add(&app_, "access",
                  "Write address and key of the binary client protocol to a file, for programs",
                  "  bp access quickstart --out quickstart.access.json\n", run_access));
  access->add_option("--out", options_.out_file, "JSON file to write, mode 0600")->required();
}

}  // namespace bp::cli
