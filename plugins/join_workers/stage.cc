#include "plugins/join_workers/stage.h"

#include <algorithm>
#include <optional>

#include "plugins/join_workers/group.h"

namespace bp::stages {
namespace {

constexpr int64_t kStatusMs = 2'000;
constexpr int64_t kPollMs = 10;
constexpr int64_t kLookMs = 2'000;
constexpr int64_t kHeadQuietMs = 5'000;
constexpr int64_t kStopGraceMs = 2'000;

// Back to start_head where the head's process is gone; to provision where its node is.
sdk::StageResult head_unreachable(sdk::StageContext& ctx, const Group& group, const Error& why) {
  sdk::NodeLink link(ctx, *group.node_of_head());
  auto processes = link.processes(5'000);
  if (!processes.ok()) return sdk::node_failure(ctx, processes.error());
  return ctx.rewind("start_head", why);
}

void report(sdk::StageContext& ctx, const v1::HeadStatus& status) {
  uint64_t done = 0, total = 0;
  for (const auto& r : status.ranks()) {
    done += r.bytes_loaded();
    total += r.bytes_total();
  }
  const std::string note = std::to_string(status.ranks_joined()) + " of " +
                           std::to_string(status.ranks_expected()) + " ranks joined, " +
                           std::to_string(status.ranks_loaded()) + " loaded";
  if (total > 0 && status.ranks_joined() == status.ranks_expected()) {
    ctx.progress(done, total, "bytes", note);
  } else {
    ctx.progress(status.ranks_joined(), status.ranks_expected(), "ranks", note);
  }
}

// What a notice means for the group of `epoch`; nullopt: nothing.
std::optional<sdk::StageResult> judge(sdk::StageContext& ctx, const Group& group, const v1::Epoch& epoch,
                                      const v1::NodeNotice& notice) {
  if (notice.node_lost()) {
    return ctx.rewind("provision", Error{ErrorCode::kPeerLost, "node " + notice.node_id() + " is lost", {}});
  }
  if (!notice.has_process_ended()) return std::nullopt;
  const auto& ended = notice.process_ended();
  const Error why{ErrorCode::kPeerLost, ended.process_key() + " on node " + notice.node_id() + " ended (" +
                                            ended.reason() + "); its log ends: " + ended.log_tail(), {}};
  if (ended.role() == v1::PROCESS_ROLE_HEAD) {
    if (sdk::older_epoch(ended.epoch(), group.head().epoch())) return std::nullopt;
    return ctx.rewind("start_head", why);
  }
  if (!sdk::same_epoch(ended.epoch(), epoch)) return std::nullopt;
  if (ended.has_restarted()) {
    ctx.log("warn", sdk::restarted_text(notice));
    return std::nullopt;
  }
  return ctx.fail(why);
}

sdk::StageResult wait_until_serving(sdk::StageContext& ctx, const Group& group, sdk::HeadClient& client,
                                    const v1::Epoch& epoch) {
  Deadline look = Deadline::in_ms(kLookMs);
  Deadline quiet = Deadline::in_ms(kHeadQuietMs);
  for (;;) {
    auto status = client.status(Deadline::in_ms(kStatusMs));
    if (status.ok()) {
      quiet = Deadline::in_ms(kHeadQuietMs);
      report(ctx, *status);
      if (status->serving() && sdk::same_epoch(status->group_epoch(), epoch)) {
        return ctx.succeed({{std::string("ranks"), group.describe(epoch).SerializeAsString()}});
      }
    }
    while (auto notice = ctx.next_notice(kPollMs)) {
      if (auto result = judge(ctx, group, epoch, *notice)) return *result;
    }
    if (ctx.cancelled()) return ctx.cancelled_result();
    // After the notices: they tell which rank ended and why, where the head knows only that one did.
    if (status.ok() && status->has_group_error() && sdk::same_epoch(status->group_epoch(), epoch)) {
      if (auto notice = ctx.next_notice(1'000)) {
        if (auto result = judge(ctx, group, epoch, *notice)) return *result;
      }
      return ctx.fail(Error{ErrorCode::kPeerLost, "the group broke: " + status->group_error().message(), {}});
    }
    const bool refused = !status.ok() && status.error().code == ErrorCode::kUnavailable;
    if (refused || quiet.passed()) return head_unreachable(ctx, group, status.error());
    if (look.passed()) {
      auto alive = group.all_alive(ctx, epoch);
      if (!alive.ok()) return sdk::node_failure(ctx, alive.error());
      if (!*alive) {
        if (auto notice = ctx.next_notice(500)) {
          if (auto result = judge(ctx, group, epoch, *notice)) return *result;
        }
        return ctx.fail(Error{ErrorCode::kPeerLost, "a rank ended while the group formed", {}});
      }
      look = Deadline::in_ms(kLookMs);
    }
  }
}

}  // namespace

sdk::StageResult JoinWorkers::run(sdk::StageContext& ctx) {
  auto group = Group::from_inputs(ctx);
  if (!group.ok()) return ctx.fail(group.error());
  auto client = group->open_client(ctx);
  if (!client.ok()) return ctx.rewind("start_head", client.error());
  auto status = (*client)->status(Deadline::in_ms(kHeadQuietMs));
  if (!status.ok()) return head_unreachable(ctx, *group, status.error());
  if (status->serving() && !status->has_group_error()) {
    auto alive = group->all_alive(ctx, status->group_epoch());
    if (!alive.ok()) return sdk::node_failure(ctx, alive.error());
    if (*alive) {
      const auto epoch = status->group_epoch();
      return ctx.succeed({{std::string("ranks"), group->describe(epoch).SerializeAsString()}});
    }
  }
  const v1::Epoch& epoch = ctx.ref().epoch();
  ctx.progress(0, static_cast<uint64_t>(group->plan().ranks_size()), "ranks");
  Status expected = (*client)->expect_group(epoch, Deadline::in_ms(kHeadQuietMs));
  if (!expected.ok()) return head_unreachable(ctx, *group, expected.error());
  const auto count = static_cast<size_t>(group->plan().ranks_size());
  Status started = sdk::in_parallel(count, [&](size_t i) -> Status {
    const auto& rank = group->plan().ranks(static_cast<int>(i));
    BP_ASSIGN(auto command, group->start_command(ctx, rank));
    sdk::NodeLink link(ctx, *group->node_of(rank));
    BP_TRY(link.call(command));
    return {};
  });
  if (!started.ok()) return sdk::node_failure(ctx, started.error());
  return wait_until_serving(ctx, *group, **client, epoch);
}

sdk::StageResult JoinWorkers::destroy(sdk::StageContext& ctx) {
  auto plan = ctx.input_message<v1::DeploymentPlan>("validate.plan");
  auto pool = ctx.input_message<v1::NodePool>("provision.pool");
  if (!plan.ok() || !pool.ok()) return ctx.succeed();  // without nodes no rank was started
  Status stopped = sdk::in_parallel(static_cast<size_t>(plan->ranks_size()), [&](size_t i) -> Status {
    const auto& rank = plan->ranks(static_cast<int>(i));
    const auto node = std::find_if(pool->nodes().begin(), pool->nodes().end(),
                                   [&](const auto& n) { return n.index() == rank.node_index(); });
    if (node == pool->nodes().end()) return {};
    sdk::NodeLink link(ctx, *node);
    v1::NodeCommand command;
    command.mutable_stop()->set_process_key(Group::process_key(rank.rank()));
    command.mutable_stop()->set_grace_ms(kStopGraceMs);
    auto reply = link.call(command, kStopGraceMs + 12'000);
    if (!reply.ok() && reply.error().code == ErrorCode::kPeerLost) {
      // Its agent is gone: releasing the node starts a successor, which ends and confirms all of them.
      ctx.log("warn", reply.error().message + "; the release of the node ends its ranks");
      return {};
    }
    return reply.ok() ? Status() : Status(reply.error());
  });
  return stopped.ok() ? ctx.succeed() : ctx.fail(stopped.error());
}

}  // namespace bp::stages
