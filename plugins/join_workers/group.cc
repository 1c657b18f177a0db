#include "plugins/join_workers/group.h"

#include <algorithm>
#include <mutex>
#include <thread>

#include "plugins/join_workers/stage.h"

namespace bp::stages {

uint64_t comm_segment_bytes(uint32_t tp_size) {
  // One page of header, 128 bytes a slot and a ring control: below 64 KiB up to 16 ranks, and a page to align.
  constexpr uint64_t kHeadRoom = 72 << 10;
  const uint64_t ring = tp_size <= 4 ? 1 << 20 : 256 << 10;
  return kHeadRoom + uint64_t{tp_size} * tp_size * ring;
}

Result<Group> Group::from_inputs(sdk::StageContext& ctx) {
  Group g;
  BP_ASSIGN(g.plan_, ctx.input_message<v1::DeploymentPlan>("validate.plan"));
  BP_ASSIGN(g.pool_, ctx.input_message<v1::NodePool>("provision.pool"));
  BP_ASSIGN(g.weights_, ctx.input_message<v1::WeightsReady>("fetch_weights.weights"));
  BP_ASSIGN(g.head_, ctx.input_message<v1::HeadReady>("start_head.head"));
  for (const auto& rank : g.plan_.ranks()) {
    if (!g.node_of(rank)) {
      return Error{ErrorCode::kInternal, "the pool has no node for rank " + std::to_string(rank.rank()), {}};
    }
  }
  if (!g.node_of_head()) return Error{ErrorCode::kInternal, "the pool has no node of the head", {}};
  return g;
}

const v1::NodeInfo* Group::node_of(const v1::RankPlan& rank) const {
  for (const auto& n : pool_.nodes()) {
    if (n.index() == rank.node_index()) return &n;
  }
  return nullptr;
}

const v1::NodeInfo* Group::node_of_head() const {
  for (const auto& n : pool_.nodes()) {
    if (n.node_id() == head_.node_id()) return &n;
  }
  return nullptr;
}

Result<std::unique_ptr<sdk::HeadClient>> Group::open_client(sdk::StageContext& ctx) const {
  return sdk::open_head_client(ctx, head_);
}

// Local nodes share this machine's cores, whatever the recipe says of real ones.
uint32_t Group::threads_per_rank() const {
  uint32_t declared = 1;
  for (const auto& n : plan_.nodes()) declared = std::max(declared, n.cpus() / std::max(1u, n.gpus()));
  if (plan_.provider() != "local") return declared;
  const uint32_t ranks = std::max(1, plan_.ranks_size());
  return std::max(1u, std::min(declared, std::thread::hardware_concurrency() / ranks));
}

Result<v1::NodeCommand> Group::start_command(sdk::StageContext& ctx, const v1::RankPlan& rank) const {
  const v1::NodeInfo& node = *node_of(rank);
  BP_ASSIGN(std::string secret_key, ctx.secret("rank_secret_key"));
  v1::RankConfig config;
  config.set_run_id(ctx.run_id());
  *config.mutable_group_epoch() = ctx.ref().epoch();
  config.set_rank(rank.rank());
  config.set_tp_rank(rank.tp_rank());
  config.set_pp_rank(rank.pp_rank());
  config.set_node_id(node.node_id());
  config.set_address(node.address());
  config.set_rendezvous_endpoint(head_.rendezvous_endpoint());
  config.set_head_public_key(head_.head_public_key());
  config.set_rank_public_key(head_.rank_public_key());
  config.set_rank_secret_key(secret_key);
  *config.mutable_plan() = plan_;
  config.set_model_path(node.work_dir() + "/" + weights_.model_path());
  config.set_exact(ctx.option("exact") == "1");
  config.set_threads(threads_per_rank());
  v1::NodeCommand command;
  auto* start = command.mutable_start();
  start->set_process_key(process_key(rank.rank()));
  start->set_role(v1::PROCESS_ROLE_RANK);
  start->set_program("bp-rank");
  start->set_config(config.SerializeAsString());
  start->set_leased(true);
  // What its node starts again by itself: all but ranks that were told to end, that could not start or load, or that
  // the head left (runtime/rank/README.md has the numbers).
  start->set_restart(true);
  for (int status : {0, 2, 10, 11, 12, 15}) start->add_no_restart(status);
  (*start->mutable_labels())["rank"] = std::to_string(rank.rank());
  (*start->mutable_labels())["tp_rank"] = std::to_string(rank.tp_rank());
  (*start->mutable_labels())["pp_rank"] = std::to_string(rank.pp_rank());
  start->add_segments()->set_name("weights-" + std::to_string(rank.rank()));
  start->add_segments()->set_name("kv-" + std::to_string(rank.rank()));
  if (plan_.tp_size() <= 1) return command;
  auto* comm = start->add_segments();
  comm->set_name("comm-" + std::to_string(rank.pp_rank()));
  comm->set_size_bytes(comm_segment_bytes(plan_.tp_size()));
  comm->set_drop_with_epoch(true);
  return command;
}

Result<bool> Group::all_alive(sdk::StageContext& ctx, const v1::Epoch& epoch) const {
  std::mutex mutex;
  size_t alive = 0;
  BP_TRY(sdk::in_parallel(static_cast<size_t>(pool_.nodes_size()), [&](size_t i) -> Status {
    const auto& node = pool_.nodes(static_cast<int>(i));
    sdk::NodeLink link(ctx, node);
    BP_ASSIGN(auto processes, link.processes());
    std::lock_guard lock(mutex);
    for (const auto& rank : plan_.ranks()) {
      if (rank.node_index() != node.index()) continue;
      alive += static_cast<size_t>(std::count_if(processes.begin(), processes.end(), [&](const auto& p) {
        return p.process_key() == process_key(rank.rank()) && sdk::same_epoch(p.epoch(), epoch);
      }));
    }
    return {};
  }));
  return alive == static_cast<size_t>(plan_.ranks_size());
}

v1::RanksReady Group::describe(const v1::Epoch& epoch) const {
  v1::RanksReady ready;
  *ready.mutable_group_epoch() = epoch;
  for (const auto& rank : plan_.ranks()) {
    auto* r = ready.add_ranks();
    r->set_rank(rank.rank());
    r->set_tp_rank(rank.tp_rank());
    r->set_pp_rank(rank.pp_rank());
    r->set_node_id(node_of(rank)->node_id());
    r->set_process_key(process_key(rank.rank()));
  }
  return ready;
}

}  // namespace bp::stages
