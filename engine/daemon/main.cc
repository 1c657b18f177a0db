// bp-daemon: keeps deployments going. See --help.
#include <signal.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>

#include "engine/base/build.h"
#include "engine/base/log.h"
#include "engine/base/secret.h"
#include "engine/bus/bus.h"
#include "engine/daemon/daemon.h"

namespace {
constexpr const char* kFooter = R"(
Examples:
  bp-daemon                                     for this user, state in ~/.local/state/bp-daemon
  bp-daemon --state-dir /var/lib/bp-daemon --run-dir /run/bp-daemon
  bp-daemon --allow-private-stores              recipes may read object stores on loopback and private networks
  bp-daemon --config /etc/bp-daemon.json        {"state-dir": "/var/lib/bp-daemon", "provider": "local"}

SIGTERM and SIGINT end the daemon and leave deployments serving; the next start takes them up again.
Exit status: 0 stopped on request, 1 could not start, 2 bad usage, 74 the journal is unusable.)";
}

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  bp::daemon::Config config;
  std::string file;
  CLI::App app{"bp-daemon: turns recipes into served models and keeps them running"};
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("bp-daemon ") + bp::build_id());
  app.add_option("--config", file, "JSON file with these options by name; options given here win");
  app.add_option("--state-dir", config.state_dir, "journal, keys, logs, nodes, weight cache");
  app.add_option("--run-dir", config.run_dir, "sockets");
  app.add_option("--plugin-dir", config.plugin_dir, "stage plugins (*.so)");
  app.add_option("--workflow-dir", config.workflow_dir,
                 "workflows (*.json); default: the plugins' folder");
  app.add_option("--provider", config.provider, "what makes nodes: local");
  app.add_option("--device", config.device, "what computes: cpu");
  app.add_option("--log-level", config.log_level, "trace, debug, info, warn, error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}));
  app.add_option("--log-file", config.log_file, "instead of standard error");
  app.add_flag("--allow-private-stores", config.allow_private_stores,
               "allow object stores on loopback and private networks");
  app.add_option("--trace-mib", config.trace_mib,
                 "heads record what their schedulers decide, up to so many MiB each; see bp-head --replay");
  app.add_flag("--exact", config.exact, "FP32 activations, for comparison with references");
  app.add_flag("--embedded", config.embedded, "started by bp for one user: a client may end it");
  app.add_option("--admit-active", config.admit_active,
                 "runs at work that are taken in; 0: as the measured rate allows");
  app.add_flag("--start-paused", config.start_paused,
               "take up all runs but dispatch nothing until `bp daemon resume`");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  std::vector<std::string> given;
  for (const auto* option : app.get_options()) {
    if (option->count() > 0) given.push_back(option->get_name().substr(2));
  }
  bp::Status read = file.empty() ? bp::Status{} : bp::daemon::read_config(file, given, &config);
  if (read.ok()) read = bp::daemon::fill_defaults(&config);
  if (!read.ok()) {
    fprintf(stderr, "bp-daemon: %s\n", read.error().to_string().c_str());
    return 2;
  }
  ::umask(0077);
  ::signal(SIGPIPE, SIG_IGN);
  bp::disable_core_dumps();
  try {
    bp::log_init("bp-daemon", config.log_level, config.log_file);
    return bp::daemon::run(config);
  } catch (const std::exception& e) {
    fprintf(stderr, "bp-daemon: %s\n", e.what());
    return bp::daemon::kExitFailed;
  }
}
