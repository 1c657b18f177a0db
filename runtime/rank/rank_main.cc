// bp-rank: one rank of a deployment. Started by bp-node only: everything comes through descriptors.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <iostream>

#include "engine/base/build.h"
#include "engine/base/log.h"
#include "engine/base/secret.h"
#include "engine/bus/bus.h"
#include "runtime/rank/exit_codes.h"
#include "runtime/rank/rank_program.h"

namespace {

int rank_main() {
  using namespace bp;
  using namespace bp::rt;
  const char* level = std::getenv("BP_LOG_LEVEL");
  log_init("bp-rank", level ? level : "info");
  // Dumps may hold keys and prompts. The process stays dumpable in the kernel's sense: its node must be
  // able to open /proc/PID/fd/N again.
  disable_core_dumps();
  RankFds fds;
  auto config = read_rank_config(fds.config);
  if (!config.ok()) {
    BP_LOG(err, "rank.failed", "{}", config.error().to_string());
    return kExitConfig;
  }
  auto model = open_rank_model(*config);
  if (!model.ok()) {
    BP_LOG(err, "rank.failed", "rank={} {}", config->rank(), model.error().to_string());
    return kExitStart;
  }
  return run_rank(*config, fds, **model, RankTimes{});
}

}  // namespace

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::cout << "bp-rank " << bp::build_id() << "\n";
    return 0;
  }
  if (argc != 1) {
    std::cerr << "bp-rank is started by bp-node, with its config in descriptor 3; usage: bp-rank [--version]\n";
    return bp::rt::kExitConfig;
  }
  int status = bp::rt::kExitStart;
  try {
    status = rank_main();
  } catch (const std::exception& e) {
    std::cerr << "bp-rank: " << e.what() << "\n";
  }
  std::_Exit(status);  // the stream's thread may still be at work
}
