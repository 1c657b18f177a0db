#include "plugins/provision/local_provider.h"

#include <signal.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <mutex>

#include "engine/base/files.h"
#include "engine/base/limits.h"
#include "plugins/provision/address_block.h"
#include "plugins/sdk/keys.h"

namespace bp::stages {

LocalProvider::LocalProvider(sdk::StageContext& ctx)
    : ctx_(ctx), state_dir_(ctx.option("state_dir")), run_number_(ctx.attempt().run_number()) {
  programs_.bin_dir = ctx.option("bin_dir", program_dir());
  programs_.daemon_file = state_dir_ + "/node_endpoint";
  programs_.run_id = ctx.run_id();
}

LocalAgent LocalProvider::describe(uint32_t index) const {
  LocalAgent a;
  a.node_id = local_node_id(run_number_, index);
  a.index = index;
  a.work_dir = state_dir_ + "/nodes/" + a.node_id;
  a.cache_dir = ctx_.option("cache_dir", state_dir_ + "/cache") + "/" + std::to_string(index);
  a.log_file = state_dir_ + "/logs/" + ctx_.run_id() + "/" + a.node_id + ".log";
  return a;
}

LocalAgent LocalProvider::describe(const v1::NodeInfo& node) const {
  LocalAgent a = describe(node.index());
  a.address = node.address();
  return a;
}

Result<v1::NodePool> LocalProvider::choose_pool(const v1::DeploymentPlan& plan) {
  BP_ASSIGN(const auto recipe, ctx_.input_message<v1::Recipe>("recipe"));
  BlockNeeds needs;
  needs.head_ports = {recipe.container_port(), recipe.redis_port(), recipe.dashboard_port(),
                      recipe.metrics_export_port(), recipe.rayclient_server_port()};
  for (const auto& node : plan.nodes()) {
    needs.indexes.push_back(node.index());
    if (node.is_head()) needs.head_index = node.index();
  }
  std::string prefix;
  v1::NodePool saved;
  if (!indexes_on_disk().empty() && saved.ParseFromString(ctx_.handle()) && saved.nodes_size() > 0) {
    prefix = prefix_of(saved.nodes(0).address()).value_or("");  // what runs there listens there
  }
  if (prefix.empty()) {
    BP_ASSIGN(prefix, choose_block(first_block(state_dir_, run_number_), needs));
  }
  v1::NodePool pool;
  for (const auto& node : plan.nodes()) {
    const LocalAgent a = describe(node.index());
    auto* info = pool.add_nodes();
    info->set_node_id(a.node_id);
    info->set_index(a.index);
    info->set_address(address_in(prefix, a.index));
    info->set_work_dir(a.work_dir);
  }
  return pool;
}

// Folders, key pair, and the daemon's leave to dial in; all of it may be there already.
Status LocalProvider::prepare(const LocalAgent& a) {
  BP_TRY(make_dirs(a.work_dir));
  BP_TRY(make_dirs(a.cache_dir));
  BP_TRY(make_dirs(state_dir_ + "/logs/" + ctx_.run_id()));
  BP_ASSIGN(auto keys, sdk::load_or_make_key_pair(a.work_dir + "/node.key"));
  return ctx_.put_secret("node-public-key/" + a.node_id, keys.public_key);
}

Result<ProcessId> LocalProvider::bring_up(const LocalAgent& a) {
  auto living = find_agent(a.work_dir);
  if (living.ok()) return living;
  ctx_.log("info", "starting the agent of node " + a.node_id + " at " + a.address);
  auto started = start_agent(a, programs_);
  if (!started.ok()) return Error(started.error()).with_context("node " + a.node_id);
  return started;
}

Status LocalProvider::wait_for_dial_in(const LocalAgent& a, const ProcessId& process) {
  const Deadline until = Deadline::in_ms(kDialInMs);
  v1::NodeCommand list;
  list.mutable_list();
  for (;;) {
    auto reply = ctx_.node_call(a.node_id, list, std::clamp<int64_t>(until.left_ms(), 1, 300));
    if (reply.ok()) return {};
    const ErrorCode code = reply.error().code;
    if (code != ErrorCode::kDeadlineExceeded && code != ErrorCode::kUnavailable) return reply.error();
    if (!process_alive(process)) {
      return Error{ErrorCode::kPeerLost, "the agent of node " + a.node_id + " (pid " +
                                             std::to_string(process.pid) + ") ended before it dialled in: " +
                                             tail_of(a.log_file, 2048), {}};
    }
    if (until.passed()) {
      return Error{ErrorCode::kDeadlineExceeded, "node " + a.node_id + " (pid " + std::to_string(process.pid) +
                                                     ") did not dial in: " + reply.error().message, {}};
    }
    if (!ctx_.sleep_ms(5)) return Error{ErrorCode::kCancelled, "cancelled while waiting for " + a.node_id, {}};
  }
}

Result<v1::NodePool> LocalProvider::create(const v1::DeploymentPlan& plan) {
  if (state_dir_.empty() || plan.nodes_size() == 0 || plan.nodes_size() > limits::kNodesMax) {
    return Error{ErrorCode::kInternal, "the plan has " + std::to_string(plan.nodes_size()) + " nodes, 1 to " +
                                           std::to_string(limits::kNodesMax) + " expected", {}};
  }
  const auto count = static_cast<size_t>(plan.nodes_size());
  // Before anything is made: which nodes there may be.
  BP_ASSIGN(v1::NodePool pool, choose_pool(plan));
  ctx_.save_handle(pool.SerializeAsString());
  std::mutex mutex;
  uint64_t up = 0;
  ctx_.progress(0, count, "nodes");
  BP_TRY(sdk::in_parallel(count, [&](size_t i) -> Status {
    const auto& node = plan.nodes(static_cast<int>(i));
    LocalAgent a = describe(pool.nodes(static_cast<int>(i)));
    a.cores = std::max(1u, node.cpus());
    a.memory_bytes = node.memory_bytes();
    BP_TRY(prepare(a));
    BP_ASSIGN(ProcessId process, bring_up(a));
    Status here = wait_for_dial_in(a, process);
    if (!here.ok() && here.error().code == ErrorCode::kDeadlineExceeded) {
      // It lives and is deaf: its successor adopts everything it has started.
      ctx_.log("warn", here.error().message + "; it is replaced");
      BP_TRY(process_signal(process, SIGKILL));
      BP_TRY(process_wait_gone(process, Deadline::in_ms(kGoneMs)));
      BP_ASSIGN(process, bring_up(a));
      here = wait_for_dial_in(a, process);
    }
    BP_TRY(here);
    // Who answers is who holds the lock; a second one that was started in a race has ended.
    if (auto holder = find_agent(a.work_dir); holder.ok()) process = *holder;
    std::lock_guard lock(mutex);
    *pool.mutable_nodes(static_cast<int>(i))->mutable_agent() = sdk::to_wire(process);
    ctx_.progress(++up, count, "nodes");
    return {};
  }));
  ctx_.save_handle(pool.SerializeAsString());
  return pool;
}

// Node folders name everything this run may have left here, even where no handle was kept.
std::vector<uint32_t> LocalProvider::indexes_on_disk() const {
  std::vector<uint32_t> found;
  const std::string prefix = "n" + std::to_string(run_number_) + "-";
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir_ + "/nodes", ec)) {
    const std::string name = entry.path().filename().string();
    uint32_t index = 0;
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    const char* end = name.data() + name.size();
    auto [at, error] = std::from_chars(name.data() + prefix.size(), end, index);
    if (error == std::errc() && at == end) found.push_back(index);
  }
  return found;
}

std::vector<std::string> LocalProvider::release(const LocalAgent& a) {
  std::vector<std::string> survivors;
  std::error_code ec;
  auto process = find_agent(a.work_dir);
  if (!process.ok() && !std::filesystem::exists(a.work_dir, ec)) return {};
  std::string trouble;
  if (!process.ok()) {
    // What it started may live on: a successor adopts and ends it.
    auto successor = [&]() -> Result<ProcessId> {
      BP_TRY(prepare(a));
      return bring_up(a);
    }();
    if (!successor.ok()) {
      trouble = successor.error().message;
    } else {
      process = successor;
    }
  }
  if (process.ok()) {
    v1::NodeCommand command;
    command.mutable_release()->set_grace_ms(kGraceMs);
    const Deadline until = Deadline::in_ms(kReleaseMs);
    while (process_alive(*process) && !until.passed()) {
      auto reply = ctx_.node_call(a.node_id, command, 1'000);
      if (reply.ok()) break;
      trouble = reply.error().message;
      const ErrorCode code = reply.error().code;
      if (code != ErrorCode::kDeadlineExceeded && code != ErrorCode::kUnavailable) break;
    }
    if (Status gone = process_wait_gone(*process, Deadline::in_ms(kGoneMs)); !gone.ok()) {
      survivors.push_back("bp-node of " + a.node_id + ", pid " + std::to_string(process->pid) + " (" +
                          (trouble.empty() ? gone.error().message : trouble) + ")");
    }
  }
  if (std::filesystem::exists(a.work_dir, ec)) {
    survivors.push_back("work folder " + a.work_dir + (trouble.empty() ? "" : " (" + trouble + ")"));
  }
  return survivors;
}

Result<std::vector<std::string>> LocalProvider::destroy() {
  std::map<uint32_t, LocalAgent> all;
  v1::NodePool pool;
  if (pool.ParseFromString(ctx_.handle())) {
    for (const auto& node : pool.nodes()) all[node.index()] = describe(node);
  }
  for (uint32_t index : indexes_on_disk()) {
    if (all.count(index) != 0) continue;
    LocalAgent a = describe(index);
    // Its own address is not known: one of nobody, for the moment of the release.
    BP_ASSIGN(const auto prefix, choose_block(first_block(state_dir_, run_number_), BlockNeeds{{index}, 0, {}}));
    a.address = address_in(prefix, index);
    all[index] = a;
  }
  std::vector<LocalAgent> agents;
  for (const auto& [index, agent] : all) agents.push_back(agent);
  std::vector<std::vector<std::string>> left(agents.size());
  BP_TRY(sdk::in_parallel(agents.size(), [&](size_t i) -> Status {
    left[i] = release(agents[i]);
    return {};
  }));
  std::vector<std::string> survivors;
  for (const auto& part : left) survivors.insert(survivors.end(), part.begin(), part.end());
  return survivors;
}

}  // namespace bp::stages
