// HostCalls: what a running stage may ask of its host, behind the C table of stage_abi.h.
// The stage's threads call in; the socket loop takes what is to be sent and brings the answers. Nothing
// here touches a socket. All functions: any thread.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bp/v1/stage.pb.h"
#include "engine/base/clock.h"
#include "plugins/sdk/stage_abi.h"

namespace bp::stage_host {

using Options = std::map<std::string, std::string, std::less<>>;

/// Those of a HelloAck and, from the environment that a supervisor made, "work_dir".
std::shared_ptr<const Options> options_of(const v1::HelloAck& ack);
/// Hands an option to `take` and returns 1; 0: there is none of that name.
int hand_option(const Options* options, bp_bytes name, void (*take)(void*, bp_bytes), void* arg);

class HostCalls {
 public:
  /// `wake` is called (any thread) when something waits to be sent.
  explicit HostCalls(std::function<void()> wake);

  const bp_stage_host_v1* table() const { return &table_; }

  // For the socket loop.
  void cancel(int64_t deadline_ms);
  /// Log lines beyond so many bytes of text are dropped and counted. Before the attempt begins.
  void limit_logs(uint64_t bytes);
  uint64_t log_lines_beyond() const;
  /// Options of all attempts, as the daemon said in its HelloAck.
  void set_options(std::shared_ptr<const Options> options);
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
  static constexpr size_t kLogLinesMax = 2000;    // that wait to be sent; older lines are dropped
  static constexpr size_t kLogWaitingBytes = 1 << 20;
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
  int option(bp_bytes name, void (*take)(void*, bp_bytes), void* arg) const;
  int wait(int64_t wait_ms);
  void push(v1::StageMessage message);

  bp_stage_host_v1 table_{};
  std::function<void()> wake_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<v1::StageMessage> outgoing_;
  size_t log_lines_ = 0, log_waiting_bytes_ = 0;
  uint64_t log_lines_dropped_ = 0;
  uint64_t log_left_ = UINT64_MAX, log_beyond_ = 0;  // bytes; lines beyond the limit
  v1::AttemptBeat known_;         // all that was ever reported, merged
  v1::AttemptBeat news_;          // since the last beat that was sent
  bool has_news_ = false;
  bool news_is_urgent_ = false;   // more than progress
  int64_t last_beat_ns_ = 0;
  bool cancel_asked_ = false;
  int64_t cancel_deadline_ns_ = 0;
  std::shared_ptr<const Options> options_;
  std::map<uint64_t, PendingCall> calls_;
  std::map<std::string, PendingSecret> secrets_;
  std::deque<v1::NodeNotice> notices_;
};

}  // namespace bp::stage_host
