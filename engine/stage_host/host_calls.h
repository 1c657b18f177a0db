// HostCalls: what a running stage may ask of its host, behind the C table of stage_abi.h.
// The stage's threads call in; the socket loop takes what is to be sent and brings the answers. Nothing
// here touches a socket. All functions: any thread.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bp/v1/stage.pb.h"
#include "engine/base/clock.h"
#include "plugins/sdk/stage_abi.h"

namespace bp::stage_host {

class HostCalls {
 public:
  /// `wake` is called (any thread) when something waits to be sent.
  explicit HostCalls(std::function<void()> wake);

  const bp_stage_host_v1* table() const { return &table_; }

  // For the socket loop.
  void cancel(int64_t deadline_ms);
  bool is_cancelled() const;
  void on_node_reply(const v1::NodeReply& reply);
  void on_notice(const v1::NodeNotice& notice);
  void on_secret_ack(const v1::SecretPutAck& ack);
  /// Messages (without ref and sequence) in the order in which the stage made them; a beat comes first.
  /// A beat with nothing but progress is held back until kProgressMs after the last one.
  std::vector<v1::StageMessage> take_outgoing();
  /// Nanoseconds of CLOCK_MONOTONIC at which a held-back beat is due; nullopt: none is held back.
  std::optional<int64_t> beat_due_ns() const;
  /// The daemon may have lost what it was told (it restarted): says everything that counts once more,
  /// namely handle, checkpoint, ready, unanswered node calls and unacknowledged secrets.
  void repeat_all();
  /// A beat that says nothing but that the host lives.
  v1::StageMessage liveness() const;

  static constexpr int64_t kProgressMs = 50;
  static constexpr size_t kLogLinesMax = 2000;    // while the daemon is away; older lines are dropped
  static constexpr size_t kNoticesMax = 10'000;
  static constexpr int64_t kSecretPutMs = 30'000;

 private:
  struct PendingCall {
    v1::NodeCall call;
    std::optional<v1::NodeCommandReply> reply;
  };
  struct PendingSecret {
    std::string value;
    bool stored = false;
  };
  void beat(bp_bytes bytes);
  int cancelled(int64_t* deadline_ms) const;
  int node_call(bp_bytes bytes, void (*take)(void*, bp_bytes), void* arg);
  int node_notice(int64_t wait_ms, void (*take)(void*, bp_bytes), void* arg);
  void log(const char* level, bp_bytes text);
  int secret_put(const char* name, bp_bytes value);
  void push(v1::StageMessage message);

  bp_stage_host_v1 table_{};
  std::function<void()> wake_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<v1::StageMessage> outgoing_;
  size_t log_lines_ = 0;
  uint64_t log_lines_dropped_ = 0;
  v1::AttemptBeat known_;         // all that was ever reported, merged
  v1::AttemptBeat news_;          // since the last beat that was sent
  bool has_news_ = false;
  bool news_is_urgent_ = false;   // more than progress
  int64_t last_beat_ns_ = 0;
  bool cancel_asked_ = false;
  int64_t cancel_deadline_ns_ = 0;
  uint64_t next_call_id_;
  std::map<uint64_t, PendingCall> calls_;
  std::map<std::string, PendingSecret> secrets_;
  std::deque<v1::NodeNotice> notices_;
};

}  // namespace bp::stage_host
