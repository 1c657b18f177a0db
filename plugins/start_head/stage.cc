#include "plugins/start_head/stage.h"

#include <cstdlib>
#include <algorithm>
#include <optional>

#include "plugins/sdk/head_client.h"
#include "plugins/sdk/keys.h"
#include "plugins/sdk/node_link.h"

namespace bp::stages {
namespace {

constexpr const char* kKey = "head";
constexpr int64_t kStartMs = 25'000;
constexpr int64_t kAnswerMs = 2'000;
constexpr int64_t kStopGraceMs = 3'000;
constexpr int64_t kPollMs = 10;
constexpr uint32_t kQueueRequests = 1024;
constexpr uint32_t kLogTailBytes = 4096;

struct Inputs {
  v1::Recipe recipe;
  v1::DeploymentPlan plan;
  v1::NodePool pool;
  v1::WeightsReady weights;
  const v1::NodeInfo* node = nullptr;  // the head's
};

Result<Inputs> read_inputs(sdk::StageContext& ctx) {
  Inputs in;
  BP_ASSIGN(in.recipe, ctx.input_message<v1::Recipe>("recipe"));
  BP_ASSIGN(in.plan, ctx.input_message<v1::DeploymentPlan>("validate.plan"));
  BP_ASSIGN(in.pool, ctx.input_message<v1::NodePool>("provision.pool"));
  BP_ASSIGN(in.weights, ctx.input_message<v1::WeightsReady>("fetch_weights.weights"));
  return in;
}

const v1::NodeInfo* head_node(const Inputs& in) {
  uint32_t index = 0;
  for (const auto& n : in.plan.nodes()) {
    if (n.is_head()) index = n.index();
  }
  for (const auto& n : in.pool.nodes()) {
    if (n.index() == index) return &n;
  }
  return nullptr;
}

v1::HeadReady describe(const Inputs& in, const v1::ProcessStatus& process) {
  const auto& r = in.recipe;
  const std::string& at = in.node->address();
  v1::HeadReady head;
  head.set_node_id(in.node->node_id());
  head.set_process_key(kKey);
  *head.mutable_epoch() = process.epoch();
  head.set_rendezvous_endpoint("tcp://" + at + ":" + std::to_string(r.redis_port()));
  head.set_client_endpoint("tcp://" + at + ":" + std::to_string(r.rayclient_server_port()));
  head.set_http_endpoint("http://" + at + ":" + std::to_string(r.container_port()));
  head.set_dashboard_url("http://" + at + ":" + std::to_string(r.dashboard_port()) + "/");
  head.set_metrics_url("http://" + at + ":" + std::to_string(r.metrics_export_port()) + "/metrics");
  auto label = [&](const char* name) {
    auto it = process.labels().find(name);
    return it == process.labels().end() ? std::string() : it->second;
  };
  head.set_head_public_key(label("head_public_key"));
  head.set_rank_public_key(label("rank_public_key"));
  head.set_control_public_key(label("control_public_key"));
  head.set_client_public_key(label("client_public_key"));
  return head;
}

// The head that lives, when it answers to the control key of this run.
std::optional<v1::HeadReady> find_whole(sdk::StageContext& ctx, const Inputs& in,
                                        const std::vector<v1::ProcessStatus>& processes) {
  auto control_key = ctx.secret("control_secret_key");
  if (!control_key.ok() || !ctx.secret("rank_secret_key").ok()) return std::nullopt;
  for (const auto& p : processes) {
    if (p.process_key() != kKey) continue;
    v1::HeadReady head = describe(in, p);
    auto client = sdk::open_head_client(head, Secret(*control_key));
    if (!client.ok()) return std::nullopt;
    // It may just be on its way up.
    const Deadline until = Deadline::in_ms(kAnswerMs);
    do {
      auto status = (*client)->status(until);
      if (status.ok()) return head;
      if (status.error().code != ErrorCode::kUnavailable) break;
    } while (ctx.sleep_ms(kPollMs) && !until.passed());
    ctx.log("warn", "the head with pid " + std::to_string(p.identity().pid()) +
                        " lives but does not answer; it is replaced");
  }
  return std::nullopt;
}

struct Keys {
  sdk::KeyPair head, rank, control, client;
};

v1::NodeCommand start_command(sdk::StageContext& ctx, const Inputs& in, const Keys& keys) {
  const auto& r = in.recipe;
  v1::HeadConfig config;
  config.set_run_id(ctx.run_id());
  config.set_deployment_name(r.canonical_name());
  *config.mutable_epoch() = ctx.ref().epoch();
  config.set_address(in.node->address());
  config.set_http_port(r.container_port());
  config.set_rendezvous_port(r.redis_port());
  config.set_dashboard_port(r.dashboard_port());
  config.set_metrics_port(r.metrics_export_port());
  config.set_client_port(r.rayclient_server_port());
  config.set_curve_secret_key(keys.head.secret_key.reveal());
  config.set_curve_public_key(keys.head.public_key);
  config.set_rank_public_key(keys.rank.public_key);
  config.set_control_public_key(keys.control.public_key);
  config.set_client_public_key(keys.client.public_key);
  *config.mutable_plan() = in.plan;
  config.set_model_path(in.node->work_dir() + "/" + in.weights.model_path());
  config.set_served_model_name(in.plan.model().name());
  config.set_stand_in(in.plan.stand_in());
  config.set_max_queue_requests(kQueueRequests);
  config.set_exact(ctx.option("exact") == "1");
  config.set_trace_mib(static_cast<uint32_t>(std::strtoul(ctx.option("trace_mib").c_str(), nullptr, 10)));
  v1::NodeCommand command;
  auto* start = command.mutable_start();
  start->set_process_key(kKey);
  start->set_role(v1::PROCESS_ROLE_HEAD);
  start->set_program("bp-head");
  start->set_config(config.SerializeAsString());
  auto& labels = *start->mutable_labels();
  labels["head_public_key"] = keys.head.public_key;
  labels["rank_public_key"] = keys.rank.public_key;
  labels["control_public_key"] = keys.control.public_key;
  labels["client_public_key"] = keys.client.public_key;
  return command;
}

// Why a head that was just started has ended, as far as its log tells.
Error ended_error(const v1::NodeInfo& node, const std::string& reason, const std::string& log_tail) {
  const size_t busy = log_tail.find(error_name(ErrorCode::kPortBusy));
  if (busy != std::string::npos) {
    const size_t end = log_tail.find('\n', busy);
    return Error{ErrorCode::kPortBusy,
                 "bp-head on node " + node.node_id() + " at " + node.address() + ": " +
                     log_tail.substr(busy, end == std::string::npos ? std::string::npos : end - busy), {}};
  }
  return Error{ErrorCode::kPeerLost, "bp-head on node " + node.node_id() + " " + reason +
                                         " before it answered; its log ends: " + log_tail, {}};
}

std::string read_log_tail(sdk::NodeLink& link) {
  v1::NodeCommand command;
  command.mutable_read_log()->set_process_key(kKey);
  auto first = link.call(command, 2'000);  // to learn the size
  if (!first.ok()) return {};
  const uint64_t size = first->log().size();
  command.mutable_read_log()->set_offset(size > kLogTailBytes ? size - kLogTailBytes : 0);
  command.mutable_read_log()->set_max_bytes(kLogTailBytes);
  auto tail = link.call(command, 2'000);
  return tail.ok() ? tail->log().data() : std::string();
}

// Waits until the head answers. kPortBusy, kPeerLost when it ends meanwhile.
Status wait_for_answer(sdk::StageContext& ctx, const Inputs& in, const v1::HeadReady& head,
                       const Secret& control_key, sdk::NodeLink& link) {
  BP_ASSIGN(auto client, sdk::open_head_client(head, control_key));
  const Deadline until = Deadline::in_ms(kStartMs);
  Deadline look = Deadline::in_ms(1'000);
  for (;;) {
    if (client->listening()) {
      auto status = client->status(Deadline::in_ms(std::min<int64_t>(until.left_ms(), kAnswerMs)));
      if (status.ok()) return {};
    }
    while (auto notice = ctx.next_notice(kPollMs)) {
      if (notice->node_id() != in.node->node_id() || !notice->has_process_ended()) continue;
      const auto& ended = notice->process_ended();
      if (ended.process_key() != kKey || !sdk::same_epoch(ended.epoch(), head.epoch())) continue;
      return ended_error(*in.node, ended.reason(), ended.log_tail());
    }
    if (ctx.cancelled()) return Error{ErrorCode::kCancelled, "cancelled while the head starts", {}};
    if (look.passed()) {  // the notice may have gone to an attempt before this one
      BP_ASSIGN(auto processes, link.processes());
      const bool lives = std::any_of(processes.begin(), processes.end(),
                                     [](const auto& p) { return p.process_key() == kKey; });
      if (!lives) return ended_error(*in.node, "ended", read_log_tail(link));
      look = Deadline::in_ms(1'000);
    }
    if (until.passed()) {
      return Error{ErrorCode::kDeadlineExceeded, "bp-head at " + head.client_endpoint() + " did not answer within " +
                                                     std::to_string(kStartMs) + " ms", {}};
    }
  }
}

// A head that is gone is no reason to go back; a node that is gone is.
sdk::StageResult head_failure(sdk::StageContext& ctx, sdk::NodeLink& link, const Error& error) {
  return link.agent_may_live() ? ctx.fail(error) : ctx.rewind("provision", error);
}

}  // namespace

sdk::StageResult StartHead::run(sdk::StageContext& ctx) {
  auto in = read_inputs(ctx);
  if (!in.ok()) return ctx.fail(in.error());
  in->node = head_node(*in);
  if (!in->node) return ctx.fail(Error{ErrorCode::kInternal, "the pool has no node for the head", {}});
  sdk::NodeLink link(ctx, *in->node);
  auto processes = link.processes();
  if (!processes.ok()) return sdk::node_failure(ctx, processes.error());
  if (auto whole = find_whole(ctx, *in, *processes)) {
    return ctx.succeed({{std::string("head"), whole->SerializeAsString()}});
  }
  if (ctx.cancelled()) return ctx.cancelled_result();

  const Keys keys{sdk::make_key_pair(), sdk::make_key_pair(), sdk::make_key_pair(),
                  sdk::make_key_pair()};
  for (const auto& [name, pair] : {std::pair{"rank_secret_key", &keys.rank},
                                   {"control_secret_key", &keys.control},
                                   {"client_secret_key", &keys.client}}) {
    if (Status s = ctx.put_secret(name, pair->secret_key.reveal()); !s.ok()) return ctx.fail(s.error());
  }
  ctx.save_handle(in->node->node_id());
  auto reply = link.call(start_command(ctx, *in, keys));
  if (!reply.ok()) return sdk::node_failure(ctx, reply.error());
  v1::HeadReady head = describe(*in, reply->started());
  if (head.control_public_key() != keys.control.public_key) {
    return ctx.fail(Error{ErrorCode::kConflict, "node " + in->node->node_id() +
                                                    " runs a head that another attempt has started", {}});
  }
  Status up = wait_for_answer(ctx, *in, head, keys.control.secret_key, link);
  if (!up.ok()) return head_failure(ctx, link, up.error());
  ctx.log("info", "the head answers at " + head.client_endpoint() + ", pid " +
                      std::to_string(reply->started().identity().pid()));
  return ctx.succeed({{std::string("head"), head.SerializeAsString()}});
}

sdk::StageResult StartHead::destroy(sdk::StageContext& ctx) {
  auto in = read_inputs(ctx);
  if (!in.ok() || !(in->node = head_node(*in))) return ctx.succeed();  // without a pool nothing was started
  sdk::NodeLink link(ctx, *in->node);
  v1::NodeCommand command;
  command.mutable_stop()->set_process_key(kKey);
  command.mutable_stop()->set_grace_ms(kStopGraceMs);
  auto reply = link.call(command, kStopGraceMs + 12'000);
  if (reply.ok()) return ctx.succeed();
  if (reply.error().code == ErrorCode::kPeerLost) {
    // Its agent is gone: releasing the node starts a successor, which ends and confirms all of them.
    ctx.log("warn", reply.error().message + "; the release of the node ends the head");
    return ctx.succeed();
  }
  return ctx.fail(reply.error());
}

}  // namespace bp::stages
