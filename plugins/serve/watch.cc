#include "plugins/serve/watch.h"

#include <poll.h>

namespace bp::stages {

Result<Watch> Watch::from_inputs(sdk::StageContext& ctx) {
  Watch w;
  BP_ASSIGN(w.plan_, ctx.input_message<v1::DeploymentPlan>("validate.plan"));
  BP_ASSIGN(w.pool_, ctx.input_message<v1::NodePool>("provision.pool"));
  BP_ASSIGN(w.head_, ctx.input_message<v1::HeadReady>("start_head.head"));
  BP_ASSIGN(w.ranks_, ctx.input_message<v1::RanksReady>("join_workers.ranks"));
  for (const auto& node : w.pool_.nodes()) {
    if (node.agent().pid() == 0) continue;  // on another machine
    auto watch = process_watch(sdk::to_process_id(node.agent()));
    w.agents_.emplace_back(watch.ok() ? std::move(*watch) : Fd(), node.node_id());
  }
  return w;
}

Result<std::unique_ptr<sdk::HeadClient>> Watch::open_client(sdk::StageContext& ctx) const {
  return sdk::open_head_client(ctx, head_);
}

std::optional<sdk::StageResult> Watch::judge_notice(sdk::StageContext& ctx,
                                                    const v1::NodeNotice& notice) const {
  if (notice.node_lost()) {
    return ctx.rewind("provision", Error{ErrorCode::kPeerLost, "node " + notice.node_id() + " is lost", {}});
  }
  if (!notice.has_process_ended()) return std::nullopt;
  const auto& ended = notice.process_ended();
  const Error why{ErrorCode::kPeerLost, ended.process_key() + " on node " + notice.node_id() + " ended (" +
                                            ended.reason() + "); its log ends: " + ended.log_tail(), {}};
  // Notices of generations before the present one come late: they are history.
  if (ended.role() == v1::PROCESS_ROLE_HEAD) {
    if (sdk::older_epoch(ended.epoch(), head_.epoch())) return std::nullopt;
    return ctx.rewind("start_head", why);
  }
  if (sdk::older_epoch(ended.epoch(), ranks_.group_epoch())) return std::nullopt;
  if (ended.has_restarted()) {   // the head takes it into the next generation of the same epoch
    ctx.log("warn", sdk::restarted_text(notice));
    return std::nullopt;
  }
  return ctx.rewind("join_workers", why);
}

std::optional<sdk::StageResult> Watch::judge_status(sdk::StageContext& ctx,
                                                    const v1::HeadStatus& status) const {
  if (status.has_group_error()) {
    return ctx.rewind("join_workers",
                      Error{ErrorCode::kPeerLost, "the group broke: " + status.group_error().message(), {}});
  }
  if (!status.serving() || !sdk::same_epoch(status.group_epoch(), ranks_.group_epoch())) {
    return ctx.rewind("join_workers", Error{ErrorCode::kPeerLost, "the head has no serving group of ranks: " +
                                                                      std::to_string(status.ranks_joined()) + " of " +
                                                                      std::to_string(status.ranks_expected()) +
                                                                      " joined", {}});
  }
  return std::nullopt;
}

std::optional<sdk::StageResult> Watch::judge_silence(sdk::StageContext& ctx, const Error& why) const {
  for (const auto& node : pool_.nodes()) {
    if (node.node_id() != head_.node_id()) continue;
    sdk::NodeLink link(ctx, node);
    auto processes = link.processes();
    if (!processes.ok()) return sdk::node_failure(ctx, processes.error());
    for (const auto& p : *processes) {
      if (p.process_key() == head_.process_key() && sdk::same_epoch(p.epoch(), head_.epoch())) return std::nullopt;
    }
    return ctx.rewind("start_head", why);
  }
  return ctx.fail(Error{ErrorCode::kInternal, "the pool has no node " + head_.node_id(), {}});
}

std::optional<sdk::StageResult> Watch::judge_agents(sdk::StageContext& ctx) const {
  for (const auto& [fd, node_id] : agents_) {
    pollfd p{fd.get(), POLLIN, 0};
    if (fd && ::poll(&p, 1, 0) == 0) continue;
    return ctx.rewind("provision", Error{ErrorCode::kPeerLost, "the agent of node " + node_id + " has ended", {}});
  }
  return std::nullopt;
}

}  // namespace bp::stages
