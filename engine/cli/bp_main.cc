// bp: the client of bp-daemon. This file holds the command line only.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>

#include "engine/base/secret.h"
#include "engine/bus/bus.h"
#include "engine/cli/output.h"

namespace {

using bp::cli::Options;
using Command = std::function<int(const Options&)>;

struct Program {
  CLI::App app{"bp: deploy recipes through bp-daemon and talk to what they serve"};
  Options options;
  Command command;

  Program();
  CLI::App* add(CLI::App* parent, const char* name, const char* what, const char* examples,
                Command run);
  void add_recipe_commands();
  void add_run_commands();
  void add_control_commands();
  void add_generate();
  void recipe_options(CLI::App* c);
  CLI::App* with_id(CLI::App* c);
  void waiting(CLI::App* c);
};

Program::Program() {
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(
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
}

CLI::App* Program::add(CLI::App* parent, const char* name, const char* what, const char* examples,
                       Command run) {
  CLI::App* c = parent->add_subcommand(name, what);
  c->footer(std::string("Examples:\n") + examples);
  c->fallthrough(false);
  c->add_flag("--json", options.json, "Print JSON; one object a line where there are many");
  c->add_option("--state-dir", options.paths.state_dir,
                "The daemon's state folder ($BP_STATE_DIR)");
  c->add_option("--run-dir", options.paths.run_dir,
                "The daemon's run folder, with its socket ($BP_RUN_DIR)");
  c->add_option("--endpoint", options.paths.endpoint, "The daemon's socket itself: ipc://PATH");
  c->callback([this, run = std::move(run)] { command = run; });
  return c;
}

void Program::waiting(CLI::App* c) {
  c->add_option("--timeout", options.timeout_s, "Seconds to wait at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 604800));
}

CLI::App* Program::with_id(CLI::App* c) {
  c->add_option("ID", options.id, "Id or name of the deployment")->required();
  return c;
}

void Program::recipe_options(CLI::App* c) {
  c->add_option("RECIPE", options.recipe_file, "JSON file, or - for standard input")->required();
  c->add_option("--par-file", options.par_file,
                "File with the pre-authenticated address (one for all storages, or one a line); - "
                "for standard input");
  c->add_option("--provider", options.daemon.provider, "What makes nodes: local");
  c->add_option("--device", options.daemon.device, "What computes: cpu");
}

void Program::add_recipe_commands() {
  CLI::App* up = add(
      &app, "up", "Start a daemon if none runs, deploy a recipe, wait until it serves",
      "  bp up recipe.json --par-file par.txt\n  bp up recipe.json --allow-private-stores --exact\n"
      "  generate-recipe | bp up -\n",
      bp::cli::run_up);
  recipe_options(up);
  waiting(up);
  up->add_option("--idempotency-key", options.idempotency_key,
                 "Submits under one key make one deployment");
  up->add_option("--workflow", options.workflow, "Name of an installed workflow");
  up->add_flag("--allow-private-stores", options.daemon.allow_private_stores,
               "Let the daemon fetch from loopback and private addresses");
  up->add_flag("--exact", options.daemon.exact, "FP32 activations, to compare with references");
  CLI::App* submit =
      add(&app, "submit", "Hand a recipe to the running daemon",
          "  bp submit recipe.json --wait\n  bp submit recipe.json --idempotency-key nightly-42\n",
          bp::cli::run_submit);
  recipe_options(submit);
  waiting(submit);
  submit->add_option("--idempotency-key", options.idempotency_key,
                     "Submits under one key make one deployment");
  submit->add_option("--workflow", options.workflow, "Name of an installed workflow");
  submit->add_flag("--wait", options.wait, "Wait until it serves, showing the stages");
  CLI::App* plan = add(&app, "plan", "Check a recipe and show what it would become; needs no daemon",
                       "  bp plan recipe.json\n  bp plan recipe.json --par-file par.txt --json\n",
                       bp::cli::run_plan);
  recipe_options(plan);
  plan->add_flag("--allow-private-stores", options.daemon.allow_private_stores,
                 "Look into stores at loopback and private addresses");
}

void Program::add_run_commands() {
  CLI::App* list = add(&app, "list", "Live deployments", "  bp list\n  bp list --all --json\n",
                       bp::cli::run_list);
  list->add_flag("--all", options.all, "Ended ones too");
  with_id(add(&app, "show", "One deployment: stages, nodes, processes, endpoint",
              "  bp show quickstart\n  bp show quickstart --json\n", bp::cli::run_show));
  CLI::App* watch = with_id(add(
      &app, "watch", "A deployment's changes as they happen",
      "  bp watch quickstart\n  bp watch quickstart --until-ready --json\n", bp::cli::run_watch));
  watch->add_flag("--until-ready", options.until_ready, "End once it serves");
  waiting(watch);
  CLI::App* logs = with_id(add(&app, "logs", "What stages and processes logged",
                               "  bp logs quickstart --stage fetch_weights --follow\n"
                               "  bp logs quickstart --process rank-0\n",
                               bp::cli::run_logs));
  logs->add_option("--stage", options.stage, "Only this stage");
  logs->add_option("--process", options.process, "The log of a head or rank: head, rank-0, ...");
  logs->add_flag("--follow", options.follow, "Go on until the deployment ends");
  waiting(logs);
  CLI::App* doctor =
      add(&app, "doctor", "Check machine, journal and live deployments, and say what to do",
          "  bp doctor\n  bp doctor --replay --json\n", bp::cli::run_doctor);
  doctor->add_flag("--replay", options.replay,
                   "Also compute every live deployment anew from its events");
  waiting(doctor);
}

void Program::add_control_commands() {
  CLI::App* cancel =
      with_id(add(&app, "cancel", "End a deployment that is not wanted any more",
                  "  bp cancel quickstart --reason \"wrong model\"\n", bp::cli::run_cancel));
  cancel->add_option("--reason", options.reason, "Why, for the record");
  cancel->add_flag("--no-wait", options.no_wait, "Return once it is accepted");
  waiting(cancel);
  CLI::App* retry =
      with_id(add(&app, "retry", "Try a failed deployment again, keeping what is whole",
                  "  bp retry quickstart --wait\n", bp::cli::run_retry));
  retry->add_flag("--wait", options.wait, "Wait until it serves, showing the stages");
  waiting(retry);
  CLI::App* stop =
      with_id(add(&app, "stop", "Tear a deployment down until nothing of it is left",
                  "  bp stop quickstart\n  bp stop quickstart --no-wait\n", bp::cli::run_stop));
  stop->add_flag("--no-wait,!--wait", options.no_wait, "Return once it is accepted");
  waiting(stop);
  CLI::App* daemon = app.add_subcommand("daemon", "The daemon itself");
  daemon->require_subcommand(1);
  daemon->footer("Examples:\n  bp daemon status\n  bp daemon stop\n");
  add(daemon, "stop", "End the embedded daemon; deployments serve on", "  bp daemon stop\n",
      bp::cli::run_daemon_stop);
  add(daemon, "status", "Which daemon answers", "  bp daemon status\n", bp::cli::run_daemon_status);
}

void Program::add_generate() {
  CLI::App* c = with_id(
      add(&app, "generate", "One streamed answer from a deployment",
          "  bp generate quickstart \"What is the capital of France?\"\n"
          "  bp generate quickstart \"A story\" --max-tokens 100 --temperature 0.8 --seed 7\n"
          "  bp generate quickstart - <prompt.txt\n",
          bp::cli::run_generate));
  auto& g = options.generate;
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
  c->add_flag("--binary", options.binary,
              "Over the binary client protocol (rayclient_server_port) instead of HTTP");
  CLI::App* access = with_id(add(
      &app, "access", "Write address and key of the binary client protocol to a file, for programs",
      "  bp access quickstart --out quickstart.access.json\n", bp::cli::run_access));
  access->add_option("--out", options.out_file, "JSON file to write, mode 0600")->required();
}

}  // namespace

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  bp::disable_core_dumps();  // memory may hold an address that is a bearer token
  Program program;
  try {
    program.app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    return program.app.exit(e);
  } catch (const CLI::CallForAllHelp& e) {
    return program.app.exit(e);
  } catch (const CLI::ParseError& e) {
    program.app.exit(e);
    return 2;
  }
  auto paths = bp::cli::resolve_paths(program.options.paths);
  if (!paths.ok()) return bp::cli::fail(program.options, paths.error());
  program.options.paths = std::move(paths).value();
  return program.command(program.options);
}
