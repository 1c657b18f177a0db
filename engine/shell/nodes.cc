#include "engine/shell/nodes.h"

#include <algorithm>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {
constexpr int64_t kCheckMs = 250;
constexpr std::string_view kUserPrefix = "node:";

std::string user_name(const std::string& run_id, const std::string& node_id) {
  return std::string(kUserPrefix) + run_id + "/" + node_id;
}

bool same_process(const v1::ProcessStatus& a, const v1::ProcessStatus& b) {
  return a.identity().pid() == b.identity().pid() &&
         a.identity().start_ticks() == b.identity().start_ticks();
}

const char* text(NodeState s) {
  switch (s) {
    case NodeState::kUp:
      return "it is connected but did not answer";
    case NodeState::kLost:
      return "it is lost";
    default:
      return "it never connected";
  }
}
}  // namespace

NodeRegistry::NodeRegistry(World& world, Hooks hooks) : world_(world), hooks_(std::move(hooks)) {}

NodeRegistry::~NodeRegistry() {
  if (check_timer_) world_.executor.cancel(check_timer_);
  for (auto& [id, call] : calls_) world_.executor.cancel(call.timer);
}

Node* NodeRegistry::find(const std::string& run_id, const std::string& node_id) {
  auto it = nodes_.find({run_id, node_id});
  return it == nodes_.end() ? nullptr : &it->second;
}

void NodeRegistry::admit(const std::string& run_id, const std::string& node_id,
                         const std::string& public_key, bool from_journal) {
  Node& node = nodes_[{run_id, node_id}];
  if (!node.public_key.empty() && node.public_key != public_key)
    world_.transport.forbid_node(node.public_key);
  node.run_id = run_id;
  node.node_id = node_id;
  node.public_key = public_key;
  node.from_journal = from_journal;
  node.seen_boot_ms = world_.clock.boot_ms();
  world_.transport.allow_node(public_key, user_name(run_id, node_id));
  arm_check();
}

void NodeRegistry::forget_run(const std::string& run_id) {
  for (auto it = nodes_.begin(); it != nodes_.end();) {
    if (it->first.first == run_id) {
      world_.transport.forbid_node(it->second.public_key);
      it = nodes_.erase(it);
    } else {
      ++it;
    }
  }
  for (auto it = calls_.begin(); it != calls_.end();) {
    if (it->second.run_id == run_id) {
      world_.executor.cancel(it->second.timer);
      it = calls_.erase(it);
    } else {
      ++it;
    }
  }
}

void NodeRegistry::call(const std::string& key, const std::string& run_id,
                        const std::string& node_id, v1::NodeCommand command, int64_t deadline_ms,
                        Done done) {
  for (const auto& [id, c] : calls_) {
    if (c.key == key) return;
  }
  const uint64_t id = next_call_++;
  command.set_call_id(id);
  command.set_run_id(run_id);
  Call& c = calls_[id];
  c = Call{key, run_id, node_id, std::move(command), 0, false, std::move(done)};
  c.timer = world_.executor.after(std::clamp<int64_t>(deadline_ms, 1, kCallMaxMs),
                                  [this, id] { expire(id); });
  if (Node* node = find(run_id, node_id); node && node->state == NodeState::kUp)
    send_calls(*node, false);
}

void NodeRegistry::drop_calls(const std::string& prefix) {
  for (auto it = calls_.begin(); it != calls_.end();) {
    if (it->second.key.starts_with(prefix)) {
      world_.executor.cancel(it->second.timer);
      it = calls_.erase(it);
    } else {
      ++it;
    }
  }
}

void NodeRegistry::expire(uint64_t call_id) {
  auto it = calls_.find(call_id);
  if (it == calls_.end()) return;
  Call call = std::move(it->second);
  calls_.erase(it);
  const Node* node = find(call.run_id, call.node_id);
  v1::NodeCommandReply reply;
  *reply.mutable_error() =
      to_wire(Error{ErrorCode::kDeadlineExceeded,
                    "waited for node " + call.node_id + " of run " + call.run_id + ": " +
                        (node ? text(node->state) : "its key is not registered"),
                    {}});
  call.done(std::move(reply));
}

void NodeRegistry::send(const Node& node, v1::NodeMessage message) {
  message.set_sequence(++sequence_);
  world_.transport.send(Channel::kNodes, node.routing_id, message.SerializeAsString());
}

void NodeRegistry::send_calls(const Node& node, bool again) {
  for (auto& [id, call] : calls_) {
    if (call.run_id != node.run_id || call.node_id != node.node_id || (call.sent && !again))
      continue;
    call.sent = true;
    v1::NodeMessage message;
    *message.mutable_command() = call.command;
    send(node, std::move(message));
  }
}

void NodeRegistry::on_message(const bus::Peer& peer, const v1::NodeMessage& m) {
  const std::string_view user = peer.user;
  const size_t slash = user.find('/');
  if (!user.starts_with(kUserPrefix) || slash == std::string_view::npos) return;
  const std::string run_id(user.substr(kUserPrefix.size(), slash - kUserPrefix.size()));
  Node* node = find(run_id, std::string(user.substr(slash + 1)));
  if (!node) return;
  const bool fresh = seen(*node, peer.routing_id);
  if (m.has_hello()) return on_hello(*node, m.hello(), fresh);
  if (fresh) send_calls(*node, /*again=*/true);
  switch (m.body_case()) {
    case v1::NodeMessage::kReply:
      return on_reply(*node, m.reply());
    case v1::NodeMessage::kProcessEnded:
      return on_ended(*node, m.process_ended());
    case v1::NodeMessage::kBeat: {
      learn(*node, m.beat().processes());
      v1::NodeMessage ack;
      ack.mutable_beat_ack();
      return send(*node, std::move(ack));
    }
    default:
      BP_LOG(debug, "message.dropped", "node={} body={}", node->node_id,
             static_cast<int>(m.body_case()));
  }
}

// Any word of a node proves that it is there. True: over a new connection, so that what was sent
// over the old one may be lost.
bool NodeRegistry::seen(Node& node, const std::string& routing_id) {
  node.seen_boot_ms = world_.clock.boot_ms();
  const bool reconnected = node.routing_id != routing_id;
  const bool came = node.state != NodeState::kUp;
  node.routing_id = routing_id;
  node.state = NodeState::kUp;
  if (!came) return reconnected;
  BP_LOG(info, "node.up", "run={} node={}", node.run_id, node.node_id);
  v1::NodeNotice notice;
  notice.set_node_id(node.node_id);
  notice.set_node_up(true);
  hooks_.notice(node.run_id, notice);
  hooks_.changed(node.run_id);
  arm_check();
  return true;
}

void NodeRegistry::on_hello(Node& node, const v1::NodeHello& hello, bool fresh) {
  v1::NodeMessage message;
  auto* ack = message.mutable_hello_ack();
  if (hello.node_id() != node.node_id || hello.run_id() != node.run_id) {
    *ack->mutable_refused() =
        to_wire(Error{ErrorCode::kUnauthorized,
                      "this key belongs to node " + node.node_id + " of run " + node.run_id +
                          ", not to node " + hello.node_id(),
                      {}});
    return send(node, std::move(message));
  }
  node.address = hello.address();
  node.agent = hello.agent();
  learn(node, hello.processes());
  *ack->mutable_epoch() = hooks_.fence(node.run_id);
  send(node, std::move(message));
  if (fresh) send_calls(node, /*again=*/true);
  hooks_.changed(node.run_id);
}

// All processes of the node, as it has just named them.
void NodeRegistry::learn(Node& node,
                         const google::protobuf::RepeatedPtrField<v1::ProcessStatus>& processes) {
  std::map<std::string, v1::ProcessStatus> now;
  for (const auto& p : processes) now[p.process_key()] = p;
  const bool same = std::equal(now.begin(), now.end(), node.processes.begin(), node.processes.end(),
                               [](const auto& a, const auto& b) {
                                 return a.first == b.first && same_process(a.second, b.second);
                               });
  node.processes = std::move(now);
  if (!same) hooks_.changed(node.run_id);
}

void NodeRegistry::on_reply(Node& node, const v1::NodeCommandReply& reply) {
  auto it = calls_.find(reply.call_id());
  if (it == calls_.end() || it->second.run_id != node.run_id || it->second.node_id != node.node_id)
    return;
  Call call = std::move(it->second);
  calls_.erase(it);
  world_.executor.cancel(call.timer);
  // What a stage knows by this reply, whoever asks for the deployment knows as well.
  if (reply.has_list()) learn(node, reply.list().processes());
  if (reply.has_started()) {
    node.processes[reply.started().process_key()] = reply.started();
    hooks_.changed(node.run_id);
  }
  call.done(reply);
}

void NodeRegistry::on_ended(Node& node, const v1::ProcessEnded& ended) {
  auto it = node.processes.find(ended.process_key());
  if (it != node.processes.end() && it->second.identity().pid() == ended.identity().pid() &&
      it->second.identity().start_ticks() == ended.identity().start_ticks()) {
    node.processes.erase(it);
  }
  v1::NodeNotice notice;
  notice.set_node_id(node.node_id);
  *notice.mutable_process_ended() = ended;
  BP_LOG(info, "process.ended", "run={} node={} process={} epoch={} reason={}", node.run_id,
         node.node_id, ended.process_key(), epoch_text(ended.epoch()), ended.reason());
  if (!hooks_.notice(node.run_id, notice)) return;  // the node says it again with its next beat
  v1::NodeMessage ack;
  ack.mutable_beat_ack()->add_ended_keys(ended.process_key());
  send(node, std::move(ack));
  hooks_.changed(node.run_id);
}

void NodeRegistry::arm_check() {
  if (check_timer_) return;
  check_due_boot_ms_ = world_.clock.boot_ms() + kCheckMs;
  check_timer_ = world_.executor.after(kCheckMs, [this] { check(); });
}

void NodeRegistry::check() {
  check_timer_ = 0;
  const int64_t now = world_.clock.boot_ms();
  // This process itself was held up: what the nodes said meanwhile has not been read yet.
  const bool stalled = now - check_due_boot_ms_ > kCheckMs;
  bool more = false;
  std::vector<Node*> lost;
  for (auto& [key, node] : nodes_) {
    if (stalled) node.seen_boot_ms = std::max(node.seen_boot_ms, now - limits::kNodeBeatMs);
    const int64_t quiet = now - node.seen_boot_ms;
    if (node.state == NodeState::kUp && quiet > limits::kNodeLostMs) lost.push_back(&node);
    if (node.state == NodeState::kAwaited && node.from_journal && quiet > kReturnMs)
      lost.push_back(&node);
    more = more || node.state == NodeState::kUp ||
           (node.state == NodeState::kAwaited && node.from_journal);
  }
  for (Node* node : lost)
    lose(*node, node->state == NodeState::kUp ? "missed its beats" : "did not come back");
  if (more) arm_check();
}

void NodeRegistry::lose(Node& node, const char* why) {
  node.state = NodeState::kLost;
  BP_LOG(warn, "node.lost", "run={} node={} why={}", node.run_id, node.node_id, why);
  v1::NodeNotice notice;
  notice.set_node_id(node.node_id);
  notice.set_node_lost(true);
  hooks_.notice(node.run_id, notice);
  hooks_.changed(node.run_id);
}

std::vector<const Node*> NodeRegistry::nodes_of(const std::string& run_id) const {
  std::vector<const Node*> out;
  for (const auto& [key, node] : nodes_) {
    if (key.first == run_id) out.push_back(&node);
  }
  return out;
}

}  // namespace bp::shell
