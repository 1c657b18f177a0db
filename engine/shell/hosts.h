// Hosts: one stage host process per attempt in OWN. Carries out the core's actions about attempts,
// turns what hosts say into events, watches them for life and heartbeats. Attempts in SHARED are
// shared_hosts.h's.
//
// An attempt is over by its own result or by proof that its host is dead, never by silence alone:
// silence leads through the core to cancel, then SIGKILL, then the proof. Thread: the executor's.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "engine/core/core.h"
#include "engine/shell/attempt_maker.h"
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
        const AttemptMaker& maker, const SecretBox& box, Hooks hooks);
  ~Hosts();

  /// Chooses a host id for an attempt in OWN and feeds AttemptDispatched.
  void dispatch(const core::DispatchAttempt& a);
  void act(const core::StartHost& a);
  void act(const core::SendAttempt& a);
  void act(const core::ReattachAttempt& a);
  void act(const core::CancelAttempt& a);
  void act(const core::KillHost& a);
  void act(const core::AckResult& a);

  void on_message(const bus::Peer& peer, const v1::StageBatch& batch);
  /// Logs, node calls and secrets of an attempt, in whatever host.
  void on_call(const std::string& host_id, const core::Attempt& ref, const v1::StageMessage& m);
  size_t size() const { return hosts_.size(); }
  /// Tells every running attempt of the run. False when one of them has no connection yet.
  bool notice(const std::string& run_id, const v1::NodeNotice& notice);
  /// Newest epoch among living attempts; what new ones would get where there is none.
  v1::Epoch fence(const std::string& run_id) const;
  /// A host process of the run that has not gone yet; nullptr: none is left.
  const ProcessId* left(const std::string& run_id) const;
  const v1::Progress* progress(const std::string& run_id, const std::string& stage,
                               uint32_t map_index) const;

 private:
  static constexpr int64_t kHelloMs = 30'000;    // from spawn to the first word
  static constexpr int64_t kExitMs = 5'000;      // from ResultAck to the exit
  static constexpr int64_t kSecondLookMs = 300;  // before silence is believed
  struct Host;
  using Key = std::tuple<std::string, std::string, uint32_t, uint64_t>;  // run, stage, map, epoch
  static Key key_of(const core::Attempt& ref) {
    return {ref.run_id, ref.stage, ref.map_index, ref.epoch.counter()};
  }

  Host* find(const core::Attempt& ref);
  Host& adopt(const core::Attempt& ref, const ProcessId& process);
  void gone(const std::string& host_id, const std::string& how);
  void lost(const core::Attempt& ref, const std::string& reason);
  void failed(const core::Attempt& ref, Error error);
  void feed(const std::string& run_id, v1::Event event, std::function<void()> durable = {},
            Extra extra = {});
  void watch_beat(Host& host, int64_t in_ms, bool second_look);
  void beat_due(const std::string& host_id, bool second_look);

  void handle(Host& host, const v1::StageMessage& m);
  void on_hello(Host& host, const v1::StageMessage& m);
  void on_log(const core::Attempt& ref, const v1::StageLog& log);
  void on_beat(Host& host, const v1::AttemptBeat& beat);
  void on_result(const core::Attempt& ref, const v1::AttemptResult& result);
  void on_node_call(const std::string& host_id, const core::Attempt& ref, const v1::NodeCall& call);
  void on_secret(const std::string& host_id, const core::Attempt& ref, const v1::SecretPut& put);
  void on_stranger(const bus::Peer& peer, const v1::StageMessage& m);
  HostSpec spec_of(const core::StartHost& a) const;
  void send_attempt(Host& host);
  void send(const std::string& routing_id, const core::Attempt& ref, v1::StageMessage message);

  World& world_;
  const Settings& settings_;
  Conductor& conductor_;
  NodeRegistry& nodes_;
  const AttemptMaker& maker_;
  const SecretBox& box_;
  Hooks hooks_;
  std::map<std::string, std::unique_ptr<Host>> hosts_;  // by host id
  std::map<Key, Host*> by_attempt_;
  std::map<Key, std::string> strangers_;                // results of hosts that are not in hosts_
  uint64_t sequence_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bp::shell
