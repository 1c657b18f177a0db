// NodeLink: asks one node of the pool, and tells a node that is gone from a daemon that is away for a moment.
// Any thread.
#pragma once
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "bp/v1/recipe.pb.h"
#include "engine/base/process.h"
#include "plugins/sdk/stage.h"

namespace bp::sdk {

class NodeLink {
 public:
  /// How long silence is borne where nothing proves the node gone (the daemon may be restarting).
  static constexpr int64_t kPatienceMs = 30'000;
  static constexpr int64_t kTryMs = 1'000;

  NodeLink(StageContext& ctx, const v1::NodeInfo& node) : ctx_(ctx), node_(node) {}

  /// Repeats the command while there is no answer. kPeerLost: the agent's process has ended, or there
  /// was no answer for `patience_ms`; kCancelled; else what the node itself answered.
  Result<v1::NodeCommandReply> call(const v1::NodeCommand& command, int64_t patience_ms = kPatienceMs);
  /// Process keys with status. Errors as call().
  Result<std::vector<v1::ProcessStatus>> processes(int64_t patience_ms = kPatienceMs);
  /// False when the agent is known to have ended; true when it lives or runs on another machine.
  bool agent_may_live() const;

 private:
  StageContext& ctx_;
  const v1::NodeInfo& node_;
};

/// Runs work(0) ... work(n-1), each on a thread of its own, and returns the first error by index.
Status in_parallel(size_t n, const std::function<Status(size_t)>& work);

/// Whether two wire epochs are the same; whether `a` is older than `b`.
bool same_epoch(const v1::Epoch& a, const v1::Epoch& b);
bool older_epoch(const v1::Epoch& a, const v1::Epoch& b);

ProcessId to_process_id(const v1::ProcessIdentity& wire);
v1::ProcessIdentity to_wire(const ProcessId& id);

/// What a notice tells of a process that its node has started again, for the log.
std::string restarted_text(const v1::NodeNotice& notice);

/// The result for an error of a NodeLink: back to provision when the node is gone.
StageResult node_failure(StageContext& ctx, const Error& error);

}  // namespace bp::sdk
