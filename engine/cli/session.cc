#include "engine/cli/session.h"

#include <chrono>
#include <thread>

namespace bp::cli {
namespace {

constexpr int64_t kAnswerMs = 30'000;
constexpr int64_t kComeBackMs = 30'000;  // how long a service manager has to bring the daemon back
constexpr int64_t kPollMs = 100;

}  // namespace

bool run_rests(v1::RunState state) {
  switch (state) {
    case v1::RUN_STATE_SUCCEEDED:
    case v1::RUN_STATE_STOPPED:
    case v1::RUN_STATE_CANCELLED:
    case v1::RUN_STATE_FAILED:
    case v1::RUN_STATE_NEEDS_HUMAN:
      return true;
    default:
      return false;
  }
}

Result<Client*> Session::client() {
  if (!client_) {
    BP_ASSIGN(client_, connect_or_revive(paths_));
  }
  return client_.get();
}

bool Session::reconnect(const Error& error) {
  if (error.code != ErrorCode::kPeerLost) return false;
  client_.reset();
  const Deadline deadline = Deadline::in_ms(kComeBackMs);
  for (;;) {
    auto next = connect_or_revive(paths_);
    if (next.ok()) {
      client_ = std::move(next).value();
      return true;
    }
    if (next.error().code != ErrorCode::kNoDaemon || deadline.passed()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
}

Result<v1::ClientReply> Session::ask(const v1::ClientRequest& request, v1::ErrorInfo* info) {
  for (int attempt = 0;; ++attempt) {
    BP_ASSIGN(Client * c, client());
    auto reply = c->ask(request, Deadline::in_ms(kAnswerMs));
    if (reply.ok()) {
      if (!reply->has_error()) return reply;
      if (info) *info = reply->error();
      return error_of(reply->error());
    }
    if (attempt == 5 || !reconnect(reply.error())) return reply;
  }
}

Status Session::stream(const v1::ClientRequest& request, const Client::OnReply& on_reply,
                       Deadline deadline) {
  BP_ASSIGN(Client * c, client());
  return c->stream(request, on_reply, deadline);
}

Result<v1::RunView> Session::watch(const std::string& id, bool until_ready, const OnView& on_view,
                                   Deadline deadline) {
  v1::ClientRequest request;
  request.mutable_watch()->set_id(id);
  request.mutable_watch()->set_until_ready(until_ready);
  v1::RunView last;
  for (;;) {
    BP_ASSIGN(Client * c, client());
    bool done = false;
    Status s = c->stream(
        request,
        [&](const v1::ClientReply& r) {
          if (!r.has_run()) return true;
          last = r.run();
          on_view(last);
          done = run_rests(last.state()) || (until_ready && last.state() == v1::RUN_STATE_SERVING);
          return !done;
        },
        deadline);
    if (done) return last;
    if (s.ok())
      return Error{
          ErrorCode::kProtocol, "the daemon ended the stream of " + id + " before its end", {}};
    if (s.error().code == ErrorCode::kDeadlineExceeded) {
      return Error{
          ErrorCode::kDeadlineExceeded,
          "waited for deployment " + id +
              (last.current_stage().empty() ? "" : ", which is in stage " + last.current_stage()),
          {}};
    }
    if (!reconnect(s.error())) return s.error();
  }
}

}  // namespace bp::cli
