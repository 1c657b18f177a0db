// bp-stage-host: runs one attempt of one stage plugin for bp-daemon; with --shared many of them.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "engine/base/log.h"
#include "engine/base/secret.h"
#include "engine/bus/bus.h"
#include "engine/stage_host/host_loop.h"

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  CLI::App app{"bp-stage-host: runs attempts of one stage plugin; started by bp-daemon"};
  bp::stage_host::HostOptions options;
  bool shared = false;
  uint32_t slots = 512;
  std::string run_dir, log_level = "info", log_file;
  app.add_option("--plugin", options.plugin, "absolute path of the plugin's .so")->required();
  app.add_option("--endpoint", options.endpoint, "the daemon's stage socket, ipc://...")->required();
  app.add_option("--host-id", options.host_id, "name of this host at the daemon")->required();
  app.add_flag("--shared", shared, "many attempts, until it is told to end or stays idle");
  app.add_option("--slots", slots, "shared: attempts at a time")->check(CLI::Range(1, 65'536));
  app.add_option("--run-dir", run_dir, "the daemon's folder of sockets");
  app.add_option("--away-limit-ms", options.away_limit_ms, "end the attempt when the daemon stays away longer");
  app.add_option("--idle-limit-ms", options.idle_limit_ms, "end when no attempt arrives for so long");
  app.add_option("--log-bytes", options.log_bytes, "log lines of an attempt beyond this are dropped");
  app.add_option("--log-level", log_level, "trace, debug, info, warn, error");
  app.add_option("--log-file", log_file, "instead of standard error");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (shared) options.slots = slots;
  ::setsid();  // fails only where the daemon has done it already
  bp::disable_core_dumps();
  ::signal(SIGPIPE, SIG_IGN);
  bp::log_init("bp-stage-host", log_level, log_file);
  if (!run_dir.empty() && ::chdir(run_dir.c_str()) != 0) {
    BP_LOG(err, "run_dir.unusable", "path={}", run_dir);
    return bp::stage_host::kExitFailed;
  }
  try {
    return bp::stage_host::run_host(options);
  } catch (const std::exception& e) {
    BP_LOG(err, "host.failed", "{}", e.what());
    return bp::stage_host::kExitFailed;
  }
}
