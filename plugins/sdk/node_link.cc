#include "plugins/sdk/node_link.h"

#include <algorithm>
#include <thread>

namespace bp::sdk {

ProcessId to_process_id(const v1::ProcessIdentity& wire) {
  return ProcessId{wire.pid(), wire.start_ticks(), wire.boot_id()};
}

v1::ProcessIdentity to_wire(const ProcessId& id) {
  v1::ProcessIdentity wire;
  wire.set_pid(id.pid);
  wire.set_start_ticks(id.start_ticks);
  wire.set_boot_id(id.boot_id);
  return wire;
}

bool same_epoch(const v1::Epoch& a, const v1::Epoch& b) {
  return a.incarnation() == b.incarnation() && a.counter() == b.counter();
}

bool older_epoch(const v1::Epoch& a, const v1::Epoch& b) {
  return std::pair(a.incarnation(), a.counter()) < std::pair(b.incarnation(), b.counter());
}

bool NodeLink::agent_may_live() const {
  return node_.agent().pid() == 0 || process_alive(to_process_id(node_.agent()));
}

Result<v1::NodeCommandReply> NodeLink::call(const v1::NodeCommand& command, int64_t patience_ms) {
  const Deadline until = Deadline::in_ms(patience_ms);
  for (;;) {
    if (!agent_may_live()) {
      return Error{ErrorCode::kPeerLost, "the agent of node " + node_.node_id() + " (pid " +
                                             std::to_string(node_.agent().pid()) + ") has ended", {}};
    }
    auto reply = ctx_.node_call(node_.node_id(), command,
                                std::max<int64_t>(1, std::min(kTryMs, until.left_ms())));
    if (reply.ok()) return reply;
    const ErrorCode code = reply.error().code;
    const bool silent = code == ErrorCode::kDeadlineExceeded || code == ErrorCode::kUnavailable;
    if (!silent) return reply;
    if (ctx_.cancelled() && ctx_.attempt().mode() != v1::ATTEMPT_MODE_DESTROY) {
      return Error{ErrorCode::kCancelled, "cancelled while waiting for node " + node_.node_id(), {}};
    }
    if (until.passed()) {
      return Error{ErrorCode::kPeerLost, "node " + node_.node_id() + " did not answer for " +
                                             std::to_string(patience_ms) + " ms: " + reply.error().message, {}};
    }
  }
}

Result<std::vector<v1::ProcessStatus>> NodeLink::processes(int64_t patience_ms) {
  v1::NodeCommand command;
  command.mutable_list();
  BP_ASSIGN(auto reply, call(command, patience_ms));
  return std::vector<v1::ProcessStatus>(reply.list().processes().begin(), reply.list().processes().end());
}

Status in_parallel(size_t n, const std::function<Status(size_t)>& work) {
  std::vector<Status> results(n);
  std::vector<std::thread> threads;
  for (size_t i = 1; i < n; ++i) {
    threads.emplace_back([&, i] {
      try {
        results[i] = work(i);
      } catch (const std::exception& e) {
        results[i] = Error{ErrorCode::kPluginCrash, std::string("a stage's thread threw: ") + e.what(), {}};
      }
    });
  }
  if (n > 0) results[0] = work(0);
  for (auto& t : threads) t.join();
  for (auto& r : results) {
    if (!r.ok()) return r;
  }
  return {};
}

std::string restarted_text(const v1::NodeNotice& notice) {
  const auto& ended = notice.process_ended();
  return ended.process_key() + " on node " + notice.node_id() + " (pid " + std::to_string(ended.identity().pid()) +
         ") " + ended.reason() + "; its node started it again as pid " +
         std::to_string(ended.restarted().identity().pid());
}

StageResult node_failure(StageContext& ctx, const Error& error) {
  if (error.code == ErrorCode::kPeerLost) return ctx.rewind("provision", error);
  return ctx.fail(error);
}

}  // namespace bp::sdk
