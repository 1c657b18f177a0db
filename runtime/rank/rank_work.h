// RankWork: what a rank does on its stream's thread: form groups, load, execute. Reports through a Report
// function that may be called from the stream's thread.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "bp/v1/rank.pb.h"
#include "runtime/comm/groups.h"
#include "runtime/device/stream.h"
#include "runtime/models/model_runner.h"
#include "runtime/rank/lease.h"
#include "runtime/rank/rank_config.h"
#include "runtime/rank/rank_model.h"
#include "runtime/rank/segment.h"

namespace bp::rt {

class RankWork {
 public:
  /// A message for the head (body only), and with it the exit status when it is the last one (else -1).
  using Report = std::function<void(v1::RankMessage message, int exit_status)>;

  RankWork(const v1::RankConfig& config, const RankFds& fds, RankModel& model, RankLease& lease, Report report);

  /// Enqueues forming the groups of `welcome` and loading. Main thread, as all that follow.
  void start(const v1::RankWelcome& welcome, DataListener listener, int64_t form_ms);
  void step(v1::Step step);
  /// Ends every wait for peers at once.
  void abort();
  uint64_t step_now() const { return step_now_; }

 private:
  Status form(const v1::RankWelcome& welcome, const DataListener& listener, int64_t form_ms);
  Status load();
  Status execute(const v1::Step& step);
  Status failed(Error error, int exit_status);

  const v1::RankConfig& config_;
  const RankFds fds_;
  RankModel& model_;
  RankLease& lease_;
  Report report_;
  std::mutex groups_mutex_;            // guards groups_ and aborted_ while they are formed
  Groups groups_;
  bool aborted_ = false;
  std::optional<Segment> weights_, kv_;
  std::unique_ptr<ModelRunner> runner_;
  std::atomic<uint64_t> step_now_{0};  // number of the step that was begun last
  std::unique_ptr<Stream> stream_;     // last: its thread uses all of the above
};

}  // namespace bp::rt
