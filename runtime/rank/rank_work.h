// RankWork: what a rank does on its stream's thread: load, form groups, execute, leave a group that lost a rank.
// Reports through functions that may be called from the stream's thread.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "bp/v1/rank.pb.h"
#include "runtime/comm/groups.h"
#include "runtime/comm/step_channel.h"
#include "runtime/comm/switch_communicator.h"
#include "runtime/device/stream.h"
#include "runtime/models/model_runner.h"
#include "runtime/rank/kv_memory.h"
#include "runtime/rank/lease.h"
#include "runtime/rank/rank_config.h"
#include "runtime/rank/rank_model.h"
#include "runtime/rank/segment.h"

namespace bp::rt {

class RankWork {
 public:
  struct Hooks {
    /// A message for the head (body and generation only), and with it the exit status when it is the last one
    /// (else -1).
    std::function<void(v1::RankMessage message, int exit_status)> report;
    /// The generation before this one is left: nothing of it is under way any more.
    std::function<void(uint64_t generation)> left;
  };

  RankWork(const v1::RankConfig& config, const RankFds& fds, RankModel& model, RankLease& lease, Hooks hooks);

  /// Maps the KV segment, and loads at once what needs no group and takes no time: weights that an earlier rank
  /// left. `kv_trusted`: so may its KV be. Main thread, as all that follow.
  Status open(bool kv_trusted);
  /// Name of the KV contents that this rank holds whole; 0: none.
  uint64_t kv_pool() const { return kv_->name(); }

  /// Enqueues forming the groups of `welcome`, loading where that is still to do, and, with direct steps, taking
  /// them from `channel` until the generation is left.
  void join(const v1::RankWelcome& welcome, DataListener listener, std::shared_ptr<RankStepEnd> channel,
            int64_t form_ms);
  void step(v1::Step step);
  /// Ends every wait for peers at once; hooks.left(generation) follows when the stream is through.
  void leave(uint64_t generation);
  /// Ends every wait for peers at once, for good.
  void abort();

 private:
  bool is_now(uint64_t generation) const { return generation_.load() == generation; }
  Status form(const v1::RankWelcome& welcome, const DataListener& listener, int64_t form_ms);
  Status load();
  void take_kv(const v1::RankWelcome& welcome);
  void say_ready();
  void serve_channel(uint64_t generation, uint64_t next_step);
  void run_step(const v1::Step& step);
  Status execute(const v1::Step& step);
  void failed(const Error& error, int exit_status);
  void stop_waits();

  const v1::RankConfig& config_;
  const RankFds fds_;
  RankModel& model_;
  RankLease& lease_;
  Hooks hooks_;
  SwitchCommunicator tp_, pp_;
  std::optional<Segment> weights_;
  std::optional<KvMemory> kv_;
  std::unique_ptr<ModelRunner> runner_;
  bool reused_ = false;                   // the weights were there
  std::atomic<uint64_t> generation_{0};   // the one wanted; older work ends
  bool broken_ = false;                   // stream's thread: its group failed, steps are dropped until it is left
  uint64_t step_now_ = 0;                 // stream's thread: number of the step that was begun last
  std::mutex channel_mutex_;
  std::shared_ptr<RankStepEnd> channel_;
  std::unique_ptr<Stream> stream_;        // last: its thread uses all of the above
};

}  // namespace bp::rt
