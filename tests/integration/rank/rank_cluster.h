// Real rank processes on two stand-in nodes of one machine, against a RankGroup in the test.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "engine/base/fd.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"
#include "runtime/head/rank_group.h"

namespace bp::rt::test {

struct ClusterOptions {
  std::string program;             // absolute path
  uint32_t tp = 2, pp = 2;         // one node per pipeline stage
  std::string model_path = "none";
  v1::DeploymentPlan plan;         // filled in: tp, pp, ranks (layers only when already given)
  int64_t lease_ms = 1'000;
  bool exact = false;
  std::string rank_build_id;       // empty: what the ranks have
};

class RankCluster {
 public:
  explicit RankCluster(ClusterOptions options);
  ~RankCluster();                  // kills what is left

  RankGroup& group() { return *group_; }
  bus::Context& context() { return *context_; }
  const bus::KeyPair& head_keys() const { return head_keys_; }
  const bus::KeyPair& rank_keys() const { return rank_keys_; }
  const v1::DeploymentPlan& plan() const { return o_.plan; }

  /// expect_group and all ranks of it; comm segments and lease pages anew, weights and kv kept.
  /// `model_paths`: by rank, where one differs from the options'.
  void start(Epoch epoch, const std::vector<std::string>& model_paths = {});
  void start_rank(uint32_t rank, Epoch epoch, const std::string& model_path = {});
  /// As a node does after it saw the rank end: a new one, told of the old one and whether its memory is whole.
  void restart_rank(uint32_t rank, Epoch epoch, bool memory_whole);
  /// Polls until an event of `kind` came (true), another one did, or the time is up.
  bool wait_for(RankGroupEvent::Kind kind, int64_t ms, RankGroupEvent* event = nullptr);
  void kill(uint32_t rank, int signal);
  /// Exit status of the rank (128 + signal when killed); -1 when it lives after `ms`. Polls the group
  /// meanwhile when `polling`.
  int wait_exit(uint32_t rank, int64_t ms, bool polling = true);
  const ProcessId& process(uint32_t rank) const { return processes_[rank]; }
  Fd& weights(uint32_t rank) { return weights_[rank]; }
  std::string log(uint32_t rank) const;

 private:
  Fd segment(const char* name, uint64_t size_bytes);
  ClusterOptions o_;
  std::string folder_;
  std::unique_ptr<bus::Context> context_;
  bus::KeyPair head_keys_, rank_keys_;
  std::unique_ptr<RankGroup> group_;
  std::vector<Fd> weights_, kv_, comm_;   // by rank; comm_ by stage
  std::vector<ProcessId> processes_;
  std::vector<std::pair<std::string, std::string>> env_;   // of the next rank
};

v1::Step make_step(uint64_t number, std::vector<uint32_t> tokens, uint32_t position = 0);

}  // namespace bp::rt::test
