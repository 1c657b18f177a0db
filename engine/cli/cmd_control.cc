// cancel, retry, stop, daemon: what changes a deployment, or the daemon itself.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include "engine/base/ids.h"
#include "engine/base/limits.h"
#include "engine/base/process.h"
#include "engine/cli/json_view.h"
#include "engine/cli/output.h"
#include "engine/cli/progress.h"

namespace bp::cli {
namespace {

constexpr int64_t kDaemonStopMs = 20'000;
constexpr unsigned kLookAgainUs = 50'000;

/// Sends the request; the run that it is about.
Result<v1::Accepted> accepted(Session& session, const v1::ClientRequest& request) {
  BP_ASSIGN(v1::ClientReply reply, session.ask(request));
  return std::move(*reply.mutable_accepted());
}

/// Prints where it stands, and waits until it rests unless told not to.
int follow(const Options& o, Session& session, const v1::Accepted& a, bool until_ready,
           v1::RunState wanted) {
  if (o.no_wait) {
    print_line(o.json ? to_json(a) : fmt::format("{} {}", a.run_id(), state_word(a.state())));
    return 0;
  }
  auto run = wait_for(o, session, a.run_id(), until_ready);
  if (!run.ok()) return fail(o, run.error());
  if (!o.json) print_line(fmt::format("{} {}", run->name(), state_word(run->state())));
  if (run->state() == wanted) return 0;
  return report_end(o, *run);
}

}  // namespace

int run_cancel(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  request.mutable_cancel()->set_id(o.id);
  request.mutable_cancel()->set_reason(o.reason);
  request.mutable_cancel()->set_idempotency_key(random_id("cancel"));
  auto a = accepted(session, request);
  if (!a.ok()) return fail(o, a.error());
  return follow(o, session, *a, false, v1::RUN_STATE_CANCELLED);
}

int run_stop(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  request.mutable_stop()->set_id(o.id);
  request.mutable_stop()->set_idempotency_key(random_id("stop"));
  auto a = accepted(session, request);
  if (!a.ok()) return fail(o, a.error());
  // One that was cancelled is down already: that is what was asked for.
  const bool was_down = a->state() == v1::RUN_STATE_CANCELLED;
  return follow(o, session, *a, false, was_down ? v1::RUN_STATE_CANCELLED : v1::RUN_STATE_STOPPED);
}

int run_retry(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  request.mutable_retry()->set_id(o.id);
  request.mutable_retry()->set_idempotency_key(random_id("retry"));
  auto a = accepted(session, request);
  if (!a.ok()) return fail(o, a.error());
  if (!o.wait) {
    print_line(o.json ? to_json(*a) : fmt::format("{} {}", a->run_id(), state_word(a->state())));
    return 0;
  }
  return follow(o, session, *a, true, v1::RUN_STATE_SERVING);
}

int run_daemon_status(const Options& o) {
  auto client = Client::connect(o.paths.endpoint, Deadline::in_ms(limits::kConnectMs));
  if (!client.ok()) return fail(o, client.error());
  const v1::Pong& p = (*client)->daemon();
  print_line(o.json ? to_json(p)
                    : fmt::format("bp-daemon {}, pid {}, {}, state in {}", p.version(),
                                  p.daemon().pid(), p.embedded() ? "embedded" : "service",
                                  p.state_dir()));
  return 0;
}

// The daemon becomes the new program in the same process; it is through when it answers again.
int run_daemon_upgrade(const Options& o) {
  auto client = Client::connect(o.paths.endpoint, Deadline::in_ms(limits::kConnectMs));
  if (!client.ok()) return fail(o, client.error());
  const v1::ProcessIdentity who = (*client)->daemon().daemon();
  const std::string before = (*client)->daemon().version();
  if (Status s = process_signal({who.pid(), who.start_ticks(), who.boot_id()}, SIGHUP); !s.ok())
    return fail(o, s.error());
  const int64_t started = (*client)->daemon().started_wall_ms();
  client->reset();
  for (auto until = Deadline::in_ms(kDaemonStopMs); !until.passed(); ::usleep(kLookAgainUs)) {
    auto again = Client::connect(o.paths.endpoint, until);
    if (!again.ok()) return fail(o, again.error());
    if ((*again)->daemon().started_wall_ms() == started) continue;  // still the old one
    fmt::print(stderr, "bp-daemon (pid {}) runs {} now, it was {}\n", who.pid(),
               (*again)->daemon().version(), before);
    return 0;
  }
  return fail(o,
              Error{ErrorCode::kDeadlineExceeded,
                    "bp-daemon (pid " + std::to_string(who.pid()) + ") still runs its old program",
                    "Its log says why: upgrade.refused"});
}

int run_daemon_stop(const Options& o) {
  auto client = Client::connect(o.paths.endpoint, Deadline::in_ms(limits::kConnectMs));
  if (!client.ok() && client.error().code != ErrorCode::kNoDaemon) return fail(o, client.error());
  if (client.ok() && !(*client)->daemon().embedded()) {
    return fail(o, Error{ErrorCode::kConflict, "this daemon runs as a service",
                         "Use systemctl stop bp-daemon"});
  }
  if (Status s = forget_embedded(o.paths); !s.ok()) return fail(o, s.error());
  if (!client.ok()) {
    fmt::print(stderr, "no daemon runs\n");
    return 0;
  }
  const v1::ProcessIdentity who = (*client)->daemon().daemon();
  v1::ClientRequest request;
  request.mutable_shutdown();
  auto reply = (*client)->ask(std::move(request), Deadline::in_ms(kDaemonStopMs));
  // A daemon that ends faster than it answers has done what was asked.
  if (!reply.ok() && reply.error().code != ErrorCode::kPeerLost) return fail(o, reply.error());
  if (reply.ok() && reply->has_error()) return fail(o, error_of(reply->error()));
  const ProcessId id{who.pid(), who.start_ticks(), who.boot_id()};
  if (Status s = process_wait_gone(id, Deadline::in_ms(kDaemonStopMs)); !s.ok())
    return fail(o, s.error());
  fmt::print(stderr, "bp-daemon (pid {}) has ended; deployments serve on\n", who.pid());
  return 0;
}

}  // namespace bp::cli
