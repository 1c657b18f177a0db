// bp-supervisor: the parent of one stage host (engine/supervisor/supervise.h).
#include <CLI/CLI.hpp>

#include "engine/base/log.h"
#include "engine/supervisor/supervise.h"

int main(int argc, char** argv) {
  CLI::App app{"bp-supervisor: starts a stage host within limits and writes down how it ended"};
  bp::supervisor::Options o;
  std::string log_level = "info";
  app.add_option("--host-id", o.name, "name of the host")->required();
  app.add_option("--exit-dir", o.exit_dir, "gets a file that says how it ended, unless with status 0");
  app.add_option("--work-dir", o.work_dir, "the host's folder; removed when it has ended");
  app.add_option("--memory-bytes", o.limits.memory_bytes);
  app.add_option("--disk-bytes", o.limits.disk_bytes, "of the work folder");
  app.add_option("--processes", o.limits.processes);
  app.add_option("--open-files", o.limits.open_files);
  app.add_option("--cpu-percent", o.limits.cpu_percent, "100 is one core");
  app.add_option("--cpu-seconds", o.limits.cpu_seconds);
  app.add_option("--log-bytes", o.limits.log_bytes);
  app.add_option("--log-level", log_level);
  app.add_option("command", o.command, "after --: program and arguments")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  bp::log_init("bp-supervisor", log_level, "");
  return bp::supervisor::supervise(o);
}
