// bp: the client of bp-daemon.
#include "engine/base/secret.h"
#include "engine/bus/bus.h"
#include "engine/cli/command_line.h"
#include "engine/cli/output.h"

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  bp::disable_core_dumps();  // memory may hold an address that is a bearer token
  bp::cli::CommandLine line;
  try {
    line.app().parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    return line.app().exit(e);
  } catch (const CLI::CallForAllHelp& e) {
    return line.app().exit(e);
  } catch (const CLI::ParseError& e) {
    line.app().exit(e);
    return 2;
  }
  auto paths = bp::cli::resolve_paths(line.options().paths);
  if (!paths.ok()) return bp::cli::fail(line.options(), paths.error());
  line.options().paths = std::move(paths).value();
  return line.command()(line.options());
}
