// What the tests of stages share: a small deployment, a node that is a function, a head that is a socket.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "bp/v1/rank.pb.h"
#include "engine/bus/bus.h"
#include "plugins/sdk/harness.h"
#include "plugins/sdk/keys.h"
#include "plugins/sdk/node_link.h"

namespace bp::test {

/// 2 nodes x 2 ranks, all on 127.0.0.1; the ports of the head are free ones.
struct Deployment {
  v1::Recipe recipe;
  v1::DeploymentPlan plan;
  v1::NodePool pool;
  v1::WeightsReady weights;
  Deployment();
};

/// bp-head as the stages see it: answers HeadControl on the client port. Counts what it was asked.
class FakeHead {
 public:
  FakeHead(const bus::KeyPair& keys, const std::string& control_public_key, uint32_t port);
  ~FakeHead();
  void set_status(const v1::HeadStatus& status);
  v1::HeadStatus status() const;
  void fail_canary(bool fail) { fail_canary_ = fail; }
  int canaries() const { return canaries_; }
  int drains() const { return drains_; }
  /// Called (its thread) when a group is expected.
  std::function<void(const v1::Epoch&)> on_expect;

 private:
  void serve();
  void answer(const v1::HeadControl& ask, v1::HeadControlReply* reply);
  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::Router> router_;
  std::thread thread_;
  std::atomic<bool> stop_{false}, fail_canary_{false};
  std::atomic<int> canaries_{0}, drains_{0};
  mutable std::mutex mutex_;
  v1::HeadStatus status_;
};

/// The nodes of a pool: processes by node and key, started and stopped as commands say.
class FakeNodes {
 public:
  v1::NodeCommandReply operator()(const std::string& node_id, const v1::NodeCommand& c);
  std::map<std::string, v1::ProcessStatus> processes;  // "n1-0/rank-0"
  std::map<std::string, v1::StartProcess> started;     // last StartProcess by the same
  int starts = 0;
  std::function<void(const std::string& node_id, const v1::StartProcess&)> on_start;
};

void set_inputs(sdk::StageHarness& h, const Deployment& d);
v1::NodeNotice ended_notice(const std::string& node_id, const v1::ProcessStatus& process,
                            const std::string& log_tail);
uint32_t free_port();

}  // namespace bp::test
