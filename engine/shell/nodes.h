// NodeRegistry: the nodes that may dial in, which of them are there, and the commands under way to
// them.
//
// A node is admitted by its CURVE key (secret "node-public-key/NODE_ID" of its run); run and node
// id of a message come from that key, what the message says is only compared. A command waits for
// its node to connect and is sent again when the node reconnects (nodes answer a repeated command
// alike); it ends by its reply or by its deadline. A node that misses beats for kNodeLostMs counts
// as lost until it speaks. Thread: the executor's.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bp/v1/node.pb.h"
#include "bp/v1/stage.pb.h"
#include "engine/shell/world.h"

namespace bp::shell {

enum class NodeState { kAwaited, kUp, kLost };

struct Node {
  std::string run_id, node_id, public_key;
  NodeState state = NodeState::kAwaited;
  std::string routing_id;
  int64_t seen_boot_ms = 0;
  bool from_journal = false;  // known from before this start: it must come back soon
  std::string address;
  v1::ProcessIdentity agent;
  std::map<std::string, v1::ProcessStatus> processes;
};

class NodeRegistry {
 public:
  static constexpr int64_t kReturnMs =
      10'000;  // after a start of the daemon nodes have so long to dial in
  static constexpr int64_t kCallMaxMs = 3'600'000;

  struct Hooks {
    /// A node came, was lost, or one of its processes ended. False: some attempt of the run could
    /// not be told now, tell it again.
    std::function<bool(const std::string& run_id, const v1::NodeNotice&)> notice;
    /// Newest epoch that a living attempt of the run holds.
    std::function<v1::Epoch(const std::string& run_id)> fence;
    std::function<void(const std::string& run_id)> changed;
  };
  NodeRegistry(World& world, Hooks hooks);
  ~NodeRegistry();

  static constexpr const char* kKeyPrefix = "node-public-key/";
  void admit(const std::string& run_id, const std::string& node_id, const std::string& public_key,
             bool from_journal);
  void forget_run(const std::string& run_id);

  using Done = std::function<void(v1::NodeCommandReply)>;
  /// `key` names the call for its caller: the same one again, while it waits, changes nothing.
  void call(const std::string& key, const std::string& run_id, const std::string& node_id,
            v1::NodeCommand command, int64_t deadline_ms, Done done);
  /// Drops the calls whose key starts with `prefix`; their Done is not run.
  void drop_calls(const std::string& prefix);

  void on_message(const bus::Peer& peer, const v1::NodeMessage& message);
  std::vector<const Node*> nodes_of(const std::string& run_id) const;

 private:
  struct Call {
    std::string key, run_id, node_id;
    v1::NodeCommand command;
    Executor::TimerId timer = 0;
    bool sent = false;
    Done done;
  };
  Node* find(const std::string& run_id, const std::string& node_id);
  void on_hello(Node& node, const v1::NodeHello& hello, bool fresh);
  void on_reply(Node& node, const v1::NodeCommandReply& reply);
  void learn(Node& node, const google::protobuf::RepeatedPtrField<v1::ProcessStatus>& processes);
  void on_ended(Node& node, const v1::ProcessEnded& ended);
  bool seen(Node& node, const std::string& routing_id);
  void send_calls(const Node& node, bool again);
  void send(const Node& node, v1::NodeMessage message);
  void expire(uint64_t call_id);
  void check();
  void arm_check();
  void lose(Node& node, const char* why);

  World& world_;
  Hooks hooks_;
  std::map<std::pair<std::string, std::string>, Node> nodes_;
  std::map<uint64_t, Call> calls_;
  uint64_t next_call_ = 1, sequence_ = 0;
  Executor::TimerId check_timer_ = 0;
  int64_t check_due_boot_ms_ = 0;
};

}  // namespace bp::shell
