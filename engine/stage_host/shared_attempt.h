// SharedAttempt: one of the many attempts of a shared host, from RunAttempt to its acknowledged result.
// What a stage that takes microseconds needs is kept small: the daemon's bytes go to the plugin as they came
// and the plugin's result goes to the daemon as it came. The rest (beats, node calls, logs, secrets, waits)
// lives in a HostCalls that is made when first asked for.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/stage_host/host_calls.h"
#include "plugins/sdk/stage_abi.h"

namespace bp::stage_host {

class SharedAttempt;

/// What attempts need of their host. Any thread.
class SharedHost {
 public:
  virtual ~SharedHost() = default;
  /// The attempt has something to say (its HostCalls' messages).
  virtual void has_news(SharedAttempt& attempt) = 0;
  /// Its stage begins or ends to wait for something: the thread does no work meanwhile.
  virtual void waits(int change) = 0;
  virtual std::shared_ptr<const Options> options() const = 0;
};

class SharedAttempt {
 public:
  enum class State { kFree, kRunning /* or queued */, kDone, kAcknowledged };

  explicit SharedAttempt(SharedHost& host);
  /// Thread of the loop, in state kFree.
  void begin(std::string key, std::string_view ref, std::string_view run, int64_t now_ns);
  /// Runs the stage in this thread and keeps its result.
  void run(const bp_stage_v1& plugin);
  /// Any thread.
  void cancel(int64_t deadline_ms);
  /// Gives back what nobody needs once its result is acknowledged; its key stays.
  void forget();
  /// nullptr while nobody needed it. Any thread.
  HostCalls* calls() const { return calls_.load(std::memory_order_acquire); }

  const std::string& key() const { return key_; }
  const std::string& ref() const { return ref_; }
  /// Serialized AttemptResult, once run() is through.
  const std::string& result() const { return result_; }

  // The loop's own notes.
  State state = State::kFree;
  uint64_t sequence = 0;    // of its result; stays when it is said again
  int64_t begun_ns = 0;     // when it arrived
  int64_t said_ns = 0;      // when its result was last said
  bool aged = false;        // beats are due
  bool news = false;        // guarded by the loop's mutex

 private:
  struct Table;
  HostCalls& need_calls();
  void take(bp_bytes bytes, const char* plugin);

  SharedHost& host_;
  bp_stage_host_v1 table_{};
  std::string key_, ref_, run_, result_;
  bool has_result_ = false;                // stage's thread, guarded by mutex_ against a second one
  std::mutex mutex_;                       // guards the making of calls_
  std::atomic<bool> cancelled_{false};
  int64_t cancel_deadline_ns_ = 0;         // guarded by mutex_
  std::atomic<HostCalls*> calls_{nullptr};
  std::unique_ptr<HostCalls> owned_;
};

}  // namespace bp::stage_host
