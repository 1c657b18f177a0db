// Hosts: one stage host process per attempt. Carries out the core's actions about attempts, turns
// what hosts say into events, watches them for life and heartbeats.
//
// An attempt is over by its own result or by proof that its host is dead, never by silence alone:
// silence leads through the core to cancel, then SIGKILL, then the proof. Thread: the executor's.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "engine/core_v1/core.h"
#include "engine/shell/conductor.h"
#include "engine/shell/nodes.h"
#include "engine/shell/secret_box.h"
#include "engine/shell/settings.h"
#include "engine/shell/world.h"

namespace bp::shell {

class Hosts {
 public:
  struct Hooks {
    std::function<void(const std::string& run_id)> changed;  // progress; may come often
    std::function<void(const std::string& run_id, const std::string& stage)> logged;
    /// The last host process of the run has gone.
    std::function<void(const std::string& run_id)> all_gone;
  };
  Hosts(World& world, const Settings& settings, Conductor& conductor, NodeRegistry& nodes,
        const SecretBox& box, Hooks hooks);
  ~Hosts();

  void act(const core::DispatchAttempt& a);
  void act(const core::StartHost& a);
  void act(const core::SendAttempt& a);
  void act(const core::ReattachAttempt& a);
  void act(const core::CancelAttempt& a);
  void act(const core::KillHost& a);
  void act(const core::AckResult& a);

  void on_message(const bus::Peer& peer, const v1::StageBatch& batch);
  /// Tells every running attempt of the run. False when one of them has no connection yet.
  bool notice(const std::string& run_id, const v1::NodeNotice& notice);
  /// Newest epoch among living attempts; what new ones would get where there is none.
  v1::Epoch fence(const std::string& run_id) const;
  /// A host process of the run that has not gone yet; nullptr: none is left.
  const ProcessId* left(const std::string& run_id) const;
  const v1::Progress* progress(const std::string& run_id, const core::StageKey& key) const;

 private:
  static constexpr int64_t kHelloMs = 30'000;    // from spawn to the first word
  static constexpr int64_t kExitMs = 5'000;      // from ResultAck to the exit
  static constexpr int64_t kSecondLookMs = 300;  // before silence is believed
  struct Host;
  using Key =
      std::tuple<std::string, std::string, uint32_t, uint64_t>;  // run, stage, map, epoch counter

  Host* find(const core::Attempt& ref);
  Host& adopt(const core::Attempt& ref, const ProcessId& process);
  void gone(const std::string& host_id, const std::string& how);
  void lost(const core::Attempt& ref, const std::string& reason);
  void failed(const core::Attempt& ref, Error error);
  void feed(const std::string& run_id, v1::Event event, std::function<void()> durable = {});
  void watch_beat(Host& host, int64_t in_ms, bool second_look);
  void beat_due(const std::string& host_id, bool second_look);

  void handle(Host& host, const v1::StageMessage& m);
  void on_hello(Host& host, const v1::StageMessage& m);
  void on_log(Host& host, const v1::StageLog& log);
  void on_beat(Host& host, const v1::AttemptBeat& beat);
  void on_result(const core::Attempt& ref, const v1::AttemptResult& result);
  void on_node_call(Host& host, const v1::NodeCall& call);
  void on_secret(Host& host, const v1::SecretPut& put);
  void on_stranger(const bus::Peer& peer, const v1::StageMessage& m);
  void send_attempt(Host& host);
  void send(const std::string& routing_id, const core::Attempt& ref, v1::StageMessage message);
  std::map<std::string, std::string> options_of(const core::RunState& run) const;
  Status add_secrets(const core::RunState& run, v1::RunAttempt* attempt);

  World& world_;
  const Settings& settings_;
  Conductor& conductor_;
  NodeRegistry& nodes_;
  const SecretBox& box_;
  Hooks hooks_;
  std::map<std::string, std::unique_ptr<Host>> hosts_;  // by host id
  std::map<Key, std::string> strangers_;                // results of hosts that are not in hosts_
  uint64_t sequence_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bp::shell
