// SharedHosts: pools of stage hosts that take many attempts at a time, one pool per plugin and
// version. What one turn of the loop has for a host leaves in one message, acknowledgements too.
//
// A host's identity is durable (meta "host/ID") before it gets its first attempt; hosts outlive the
// daemon. After a start, attempts are sent again unless a living host says that it holds them; a
// host that does not say hello is killed first. When a host is proven dead its attempts are lost
// without using up retries. Whether hosts live is watched per host; attempts have no timers: one
// sweep looks at those that are to beat. Thread: the executor's.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/core/core.h"
#include "engine/shell/attempt_maker.h"
#include "engine/shell/conductor.h"
#include "engine/shell/world.h"

namespace bp::shell {

class SharedHosts {
 public:
  struct Hooks {
    std::function<void(const std::string& run_id)> changed;  // progress
    /// Logs, node calls, secrets: what is the same for all hosts.
    std::function<void(const std::string& host_id, const core::Attempt&, const v1::StageMessage&)>
        call;
  };
  SharedHosts(World& world, Conductor& conductor, const AttemptMaker& maker, Hooks hooks);
  ~SharedHosts();

  /// Takes up the hosts on record, before any attempt is reattached.
  void start();
  /// All runs were started again: says in the log when all of their attempts are with a host.
  void recovered();
  void act(const core::SendShared& a);
  void act(const core::ReattachAttempt& a);
  void act(const core::CancelAttempt& a);
  void act(const core::KillHost& a);
  void act(const core::AckResult& a);

  static bool is_shared(const std::string& host_id) { return host_id.starts_with("s-"); }
  void on_message(const bus::Peer& peer, const v1::StageBatch& batch);
  /// Whether more may be sent: few wait for a slot.
  bool has_room() const { return waiting_ < kWaitingMax; }
  const v1::Progress* progress(const core::RunState& run, const core::StageInstance& stage) const;
  size_t outstanding() const { return attempts_.size(); }
  uint64_t sent() const { return sent_; }

  static constexpr const char* kMetaPrefix = "host/";

 private:
  static constexpr size_t kWaitingMax = 1'024;
  static constexpr size_t kHostsPerPool = 4;
  static constexpr int64_t kHelloMs = 30'000;
  static constexpr int64_t kReturnMs = 5'000;    // for hosts of an earlier life to say hello
  static constexpr int64_t kSilentMs = 15'000;   // batches come every kStageBeatMs
  static constexpr int64_t kSweepMs = 500;
  struct Host;
  struct Pool;
  struct Held;
  struct Id {
    uint64_t run_number, epoch_counter;
    bool operator==(const Id&) const = default;
  };
  struct Hash {
    size_t operator()(const Id& id) const {
      return (id.run_number * 0x9e3779b97f4a7c15ull) ^ (id.epoch_counter * 0xc2b2ae3d27d4eb4full);
    }
  };
  using Attempts = std::unordered_map<Id, Held, Hash>;

  static Id id_of(const core::Attempt& ref) { return {ref.run_number, ref.epoch.counter()}; }
  Pool& pool_of(const std::string& plugin, uint32_t version);
  Held& add(const core::Attempt& ref, Pool& pool);
  void enqueue(Pool& pool, const Id& id);
  void pump(Pool& pool);
  void ensure_host(Pool& pool);
  void spawn(Pool& pool);
  void adopt(const std::string& host_id, Pool& pool, const ProcessId& process, bool fresh);
  Host* room_in(Pool& pool);
  void send_attempt(const Id& id, Held& held, Host& host);
  void append(Host& host, const v1::StageMessage& message);
  void flush_soon();
  void flush();
  void send_now(Host& host);

  void on_hello(Host& host, const v1::HostHello& hello, uint64_t sequence);
  void take_holds(Host& host, const v1::HostHello& hello);
  void on_result(const bus::Peer& peer, v1::StageMessage& m);
  void on_beat(const Id& id, Held& held, const v1::AttemptBeat& beat);
  void refuse_pool(Pool& pool, const Error& error);
  void gone(const std::string& host_id, const std::string& how);
  void release_unknown(Pool& pool);
  void note_recovery();
  void forget(const Id& id);
  void sweep();
  void sweep_attempt(const Id& id, Held& held, int64_t now);
  void fail(const Id& id, const Error& error);
  void lose(const Id& id, const Held& held, const std::string& reason, bool host_died);
  bool feed(uint64_t run_number, v1::Event&& event, Extra extra = {});
  v1::AttemptRef ref_of(const core::RunState& run, const core::StageInstance& stage) const;

  World& world_;
  Conductor& conductor_;
  const AttemptMaker& maker_;
  Hooks hooks_;
  std::map<std::string, std::unique_ptr<Pool>> pools_;  // "plugin/version"
  std::unordered_map<std::string, std::unique_ptr<Host>> hosts_;
  Attempts attempts_;
  struct Stranger {
    std::string host_id;
    uint64_t sequence;
  };
  std::unordered_map<Id, Stranger, Hash> strangers_;  // results of attempts that are not in attempts_
  size_t waiting_ = 0;
  uint64_t sequence_ = 0, sent_ = 0;
  bool flush_posted_ = false, recovering_ = false;
  Executor::TimerId sweep_timer_ = 0, return_timer_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bp::shell
