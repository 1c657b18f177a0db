// The C++ face of a stage plugin. The smallest stage is five lines:
//
//   struct Hello : bp::sdk::Stage {
//     StageResult run(StageContext& ctx) override { return ctx.succeed("hello " + ctx.input("name")); }
//   };
//   BP_EXPORT_STAGE("hello", /*version=*/1, Hello)
//
// run() must bring about what the stage stands for, level-triggered: look at what is, do what is missing.
// It is called again after any crash with the same effect key, the last handle and checkpoint.
// Exceptions that leave run() or destroy() become a failed attempt.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bp/v1/node.pb.h"
#include "bp/v1/recipe.pb.h"
#include "bp/v1/stage.pb.h"
#include "engine/base/clock.h"
#include "engine/base/epoch.h"
#include "engine/base/result.h"
#include "plugins/sdk/stage_abi.h"

namespace bp::sdk {

using StageResult = v1::AttemptResult;

/// What a running attempt knows and may do. Any thread, until run() returns.
class StageContext {
 public:
  StageContext(const bp_stage_host_v1* host, v1::AttemptRef ref, v1::RunAttempt attempt);

  const v1::AttemptRef& ref() const { return ref_; }
  const v1::RunAttempt& attempt() const { return attempt_; }
  Epoch epoch() const;
  const std::string& run_id() const { return ref_.run_id(); }
  /// Equal for all attempts: tag whatever is created outside with it.
  const std::string& effect_key() const { return attempt_.effect_key(); }

  /// Bytes of an input ("recipe" or "STAGE.OUTPUT"); empty when there is none.
  std::string input(const std::string& name) const;
  /// The same as a message; kInternal names the input that is missing or no valid message.
  template <class Message>
  Result<Message> input_message(const std::string& name) const {
    auto it = attempt_.inputs().find(name);
    Message m;
    if (it == attempt_.inputs().end() || !m.ParseFromString(it->second)) {
      return Error{ErrorCode::kInternal, "stage input \"" + name + "\" is missing or malformed", {}};
    }
    return m;
  }
  /// An option of the daemon or of the stage's definition; `otherwise` when unset.
  std::string option(const std::string& name, const std::string& otherwise = {}) const;
  /// A secret by name; kNotFound when the run has none or the definition does not say needs_secrets.
  Result<std::string> secret(const std::string& name) const;
  /// What an earlier attempt saved last, or this one since.
  std::string handle() const;
  const std::string& checkpoint() const { return attempt_.checkpoint(); }

  void progress(uint64_t done, uint64_t total, const std::string& unit, const std::string& note = {});
  /// Kept by the journal and handed to later attempts; at most limits::kCheckpointBytes.
  void save_checkpoint(const std::string& bytes);
  /// Names what exists outside, so that destroy() finds it after a crash: save BEFORE creating.
  void save_handle(const std::string& bytes);
  /// A stage that keeps running has reached its goal; `outputs` become visible.
  void ready(const std::map<std::string, std::string>& outputs);
  void log(const std::string& level, const std::string& text);

  bool cancelled() const;
  /// Sleeps in small parts; false as soon as the attempt is cancelled.
  bool sleep_ms(int64_t ms) const;

  /// Sends a command to a node of this run under this attempt's epoch. The node's own error comes back
  /// as an Error with its code; kDeadlineExceeded names the node; kCancelled.
  Result<v1::NodeCommandReply> node_call(const std::string& node_id, v1::NodeCommand command, int64_t deadline_ms);
  /// The oldest unread notice (a process ended, a node came or was lost), waiting up to wait_ms.
  std::optional<v1::NodeNotice> next_notice(int64_t wait_ms);
  Status put_secret(const std::string& name, const std::string& value);

  StageResult succeed(const std::string& value) const;   // output "value"
  StageResult succeed(const std::map<std::string, std::string>& outputs = {}) const;
  StageResult fail(const Error& error) const;
  StageResult fail(const Error& error, const std::vector<v1::Problem>& problems) const;
  /// What an earlier stage made is gone: run again from that stage on.
  StageResult rewind(const std::string& stage, const Error& why) const;
  StageResult cancelled_result() const;
  StageResult needs_human(const Error& error, const std::vector<std::string>& survivors) const;

 private:
  const bp_stage_host_v1* host_;
  v1::AttemptRef ref_;
  v1::RunAttempt attempt_;
  mutable std::mutex mutex_;
  std::string handle_;  // guarded by mutex_
};

class Stage {
 public:
  using StageResult = sdk::StageResult;    // so that a plugin outside this namespace finds them
  using StageContext = sdk::StageContext;

  virtual ~Stage() = default;
  virtual StageResult run(StageContext& ctx) = 0;
  /// Undoes run(); success means confirmed gone. Default: nothing to undo.
  virtual StageResult destroy(StageContext& ctx) { return ctx.succeed(); }
};

/// Runs one attempt of `stage` behind the C boundary, turning exceptions into failed attempts.
void run_attempt(Stage& stage, const bp_stage_host_v1* host, bp_bytes ref, bp_bytes attempt,
                 void (*take)(void*, bp_bytes), void* arg);

}  // namespace bp::sdk

#define BP_EXPORT_STAGE(stage_name, stage_version, StageClass)                                       \
  extern "C" BP_STAGE_EXPORT const bp_stage_v1* bp_stage_entry(uint32_t host_min, uint32_t host_max) { \
    static const bp_stage_v1 table = {                                                               \
        sizeof(bp_stage_v1), BP_STAGE_ABI_VERSION, stage_name, stage_version,                        \
        [](const bp_stage_host_v1* host, bp_bytes ref, bp_bytes attempt,                             \
           void (*take)(void*, bp_bytes), void* arg) {                                               \
          StageClass stage;                                                                          \
          ::bp::sdk::run_attempt(stage, host, ref, attempt, take, arg);                              \
        }};                                                                                          \
    return BP_STAGE_ABI_VERSION < host_min || BP_STAGE_ABI_VERSION > host_max ? nullptr : &table;    \
  }
