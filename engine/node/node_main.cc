// bp-node: the agent of one node. Started (detached, in a session of its own) by the provision
// stage.
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "engine/base/log.h"
#include "engine/base/process.h"
#include "engine/base/secret.h"
#include "engine/bus/bus.h"
#include "engine/node/agent.h"

namespace {

int run(int argc, char** argv) {
  bp::node::AgentOptions o;
  std::string log_file, log_level = "info";
  CLI::App app{"bp-node: agent of one node of a bp-daemon deployment"};
  app.add_option("--node-id", o.node_id, "id of this node within the daemon")->required();
  app.add_option("--run-id", o.run_id, "run that this node belongs to")->required();
  app.add_option("--work-dir", o.work_dir, "folder of this node; one agent at a time")->required();
  app.add_option("--cache-dir", o.cache_dir, "weight cache; outlives the run")->required();
  app.add_option("--address", o.address, "address on which this node's processes listen")
      ->required();
  app.add_option("--daemon-file", o.daemon_file, "file with the daemon's endpoint and public key")
      ->required();
  app.add_option("--key-file", o.key_file,
                 "CURVE key pair of this node (default WORK_DIR/node.key)");
  app.add_option("--bin-dir", o.bin_dir,
                 "folder of bp-head and bp-rank (default: that of bp-node)");
  app.add_option("--cores", o.cores, "cores of this node's share (default: all)");
  app.add_option("--memory-bytes", o.memory_bytes, "memory of this node's share (default: all)");
  app.add_option("--log-file", log_file, "log file (default: standard error)");
  app.add_option("--log-level", log_level, "trace, debug, info, warn or error");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  for (std::string* path : {&o.work_dir, &o.cache_dir, &o.bin_dir}) {
    if (!path->empty()) *path = std::filesystem::absolute(*path).lexically_normal().string();
    while (path->size() > 1 && path->back() == '/') path->pop_back();
  }
  if (o.key_file.empty()) o.key_file = o.work_dir + "/node.key";
  if (o.bin_dir.empty()) o.bin_dir = bp::program_dir();
  ::umask(077);
  bp::disable_core_dumps();
  bp::log_init("bp-node", log_level, log_file);
  auto agent = bp::node::Agent::open(std::move(o));
  if (!agent.ok()) {
    std::fprintf(stderr, "bp-node: %s\n", agent.error().to_string().c_str());
    if (!log_file.empty())
      BP_LOG(err, "agent.not_started", "error=\"{}\"", agent.error().to_string());
    return bp::error_exit_code(agent.error().code);
  }
  auto ended = (*agent)->run();
  return ended.ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bp-node: %s\n", e.what());
    return 1;
  }
}
