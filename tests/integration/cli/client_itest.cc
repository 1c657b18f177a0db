// bp against a scripted daemon over a real socket, and against none at all.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdio>
#include <functional>
#include <thread>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/process.h"
#include "engine/cli/client.h"
#include "engine/cli/session.h"

using namespace bp;
using namespace bp::cli;

namespace {

struct Folder {
  std::string path = "/tmp/" + random_id("bp-cli");
  Folder() { REQUIRE(make_dirs(path + "/r").ok()); }
  ~Folder() { CHECK(remove_tree(path).ok()); }
  std::string endpoint() const { return "ipc://" + path + "/r/client.sock"; }
  Paths paths() const { return Paths{path + "/s", path + "/r", endpoint()}; }
};

/// Answers with what `answer` says; a ping by itself. Its "process" is this test, unless told
/// otherwise.
class FakeDaemon {
 public:
  using Answer = std::function<std::vector<v1::ClientReply>(const v1::ClientRequest&)>;
  FakeDaemon(const Folder& folder, Answer answer) : answer_(std::move(answer)) {
    auto context = bus::Context::start();
    REQUIRE(context.ok());
    context_ = std::move(context).value();
    bus::ListenOptions options;
    options.endpoint = folder.endpoint();
    auto router = bus::Router::bind(*context_, options);
    REQUIRE(router.ok());
    router_ = std::move(router).value();
    auto me = process_identity(::getpid());
    REQUIRE(me.ok());
    identity_ = *me;
  }
  ~FakeDaemon() { end(); }
  void start() {
    thread_ = std::thread([this] { loop(); });
  }
  void end() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    router_.reset();
  }
  ProcessId identity_;
  uint32_t protocol_ = kControlProtocol;

 private:
  void loop() {
    while (!stop_) {
      auto in = router_->recv(Deadline::in_ms(20));
      if (!in.ok()) continue;
      auto request = bus::parse<v1::ClientRequest>(in->payload);
      if (!request.ok()) continue;
      std::vector<v1::ClientReply> replies;
      if (request->has_ping()) {
        v1::ClientReply r;
        r.mutable_pong()->set_protocol(protocol_);
        r.mutable_pong()->mutable_daemon()->set_pid(identity_.pid);
        r.mutable_pong()->mutable_daemon()->set_start_ticks(identity_.start_ticks);
        r.mutable_pong()->mutable_daemon()->set_boot_id(identity_.boot_id);
        replies.push_back(r);
      } else {
        replies = answer_(*request);
      }
      for (size_t i = 0; i < replies.size(); ++i) {
        if (replies[i].request_id() == 0) replies[i].set_request_id(request->request_id());
        replies[i].set_final(i + 1 == replies.size());
        (void)router_->send(in->peer.routing_id, replies[i].SerializeAsString());
      }
    }
  }

  Answer answer_;
  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::Router> router_;
  std::thread thread_;
  std::atomic<bool> stop_{false};
};

v1::ClientReply run_reply(v1::RunState state) {
  v1::ClientReply r;
  r.mutable_run()->set_id("r-1");
  r.mutable_run()->set_name("quick");
  r.mutable_run()->set_state(state);
  return r;
}

/// Runs the bp of this build; its standard output, and its exit code in `code`.
std::string run_bp(const Folder& f, const std::string& args, int& code) {
  const std::string command = std::string(BP_BUILD_DIR) + "/bin/bp " + args + " --state-dir " +
                              f.path + "/s --run-dir " + f.path + "/r 2>" + f.path + "/stderr";
  FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe);
  std::string out;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
  const int status = ::pclose(pipe);
  code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  return out;
}

int code_of(const Folder& f, const std::string& args) {
  int code = -1;
  run_bp(f, args, code);
  return code;
}

}  // namespace

TEST_CASE("nobody listens: no daemon, at once") {
  Folder f;
  const int64_t begin = monotonic_ns();
  auto c = Client::connect(f.endpoint(), Deadline::in_ms(5'000));
  REQUIRE_FALSE(c.ok());
  CHECK(c.error().code == ErrorCode::kNoDaemon);
  CHECK(monotonic_ns() - begin < 1'000'000'000);
}

TEST_CASE("a request gets its reply, not that of an earlier one") {
  Folder f;
  FakeDaemon d(f, [](const v1::ClientRequest& r) {
    v1::ClientReply stale = run_reply(v1::RUN_STATE_FAILED),
                    right = run_reply(v1::RUN_STATE_SERVING);
    stale.set_request_id(r.request_id() - 1);
    return std::vector<v1::ClientReply>{stale, right};
  });
  d.start();
  auto c = Client::connect(f.endpoint(), Deadline::in_ms(5'000));
  REQUIRE(c.ok());
  v1::ClientRequest q;
  q.mutable_show()->set_id("quick");
  auto r = (*c)->ask(q, Deadline::in_ms(5'000));
  REQUIRE(r.ok());
  CHECK(r->run().state() == v1::RUN_STATE_SERVING);
}

TEST_CASE("a daemon that does not answer is named") {
  Folder f;
  FakeDaemon d(f, [](const v1::ClientRequest&) { return std::vector<v1::ClientReply>{}; });
  d.start();
  auto c = Client::connect(f.endpoint(), Deadline::in_ms(5'000));
  REQUIRE(c.ok());
  v1::ClientRequest q;
  q.mutable_list();
  auto r = (*c)->ask(q, Deadline::in_ms(50));
  REQUIRE_FALSE(r.ok());
  CHECK(r.error().code == ErrorCode::kDeadlineExceeded);
  CHECK(r.error().message.find("daemon") != std::string::npos);
}

TEST_CASE("another protocol version is refused") {
  Folder f;
  FakeDaemon d(f, [](const v1::ClientRequest&) { return std::vector<v1::ClientReply>{}; });
  d.protocol_ = 99;
  d.start();
  auto c = Client::connect(f.endpoint(), Deadline::in_ms(5'000));
  REQUIRE_FALSE(c.ok());
  CHECK(c.error().code == ErrorCode::kProtocol);
}

TEST_CASE("the death of the daemon's process ends a wait at once") {
  Folder f;
  SpawnOptions o;
  o.program = "/bin/sleep";
  o.args = {"60"};
  o.die_with_parent = true;
  auto child = process_spawn(o);
  REQUIRE(child.ok());
  FakeDaemon d(f, [&](const v1::ClientRequest&) {
    (void)process_signal(*child, SIGKILL);
    return std::vector<v1::ClientReply>{};
  });
  d.identity_ = *child;
  d.start();
  auto c = Client::connect(f.endpoint(), Deadline::in_ms(5'000));
  REQUIRE(c.ok());
  v1::ClientRequest q;
  q.mutable_list();
  auto r = (*c)->ask(q, Deadline::in_ms(20'000));
  REQUIRE_FALSE(r.ok());
  CHECK(r.error().code == ErrorCode::kPeerLost);
  ::waitpid(child->pid, nullptr, 0);
}

TEST_CASE("a watch shows every change and ends when the run serves") {
  Folder f;
  FakeDaemon d(f, [](const v1::ClientRequest&) {
    return std::vector<v1::ClientReply>{run_reply(v1::RUN_STATE_QUEUED),
                                        run_reply(v1::RUN_STATE_RUNNING),
                                        run_reply(v1::RUN_STATE_SERVING)};
  });
  d.start();
  Session s(f.paths());
  int views = 0;
  auto run = s.watch(
      "quick", true, [&](const v1::RunView&) { ++views; }, Deadline::in_ms(5'000));
  REQUIRE(run.ok());
  CHECK(views == 3);
  CHECK(run->state() == v1::RUN_STATE_SERVING);
}

TEST_CASE("exit codes of the program") {
  Folder f;
  CHECK(code_of(f, "list") == 3);
  CHECK(code_of(f, "show") == 2);
  CHECK(code_of(f, "list --nonsense") == 2);
  CHECK(code_of(f, "submit /nonexistent.json") == 2);
  CHECK(code_of(f, "list --help") == 0);
  CHECK(code_of(f, "daemon stop") == 0);
  FakeDaemon d(f, [](const v1::ClientRequest& r) -> std::vector<v1::ClientReply> {
    if (r.has_watch()) return {run_reply(v1::RUN_STATE_RUNNING), run_reply(v1::RUN_STATE_FAILED)};
    if (r.has_show() && r.show().id() == "quick") return {run_reply(v1::RUN_STATE_SERVING)};
    if (r.has_submit()) {
      v1::ClientReply reply;
      reply.mutable_submitted()->set_run_id("r-1");
      return {reply};
    }
    v1::ClientReply reply;
    reply.mutable_error()->set_code("BP_NOT_FOUND");
    reply.mutable_error()->set_message("there is no such deployment");
    return {reply};
  });
  d.start();
  CHECK(code_of(f, "show quick") == 0);
  CHECK(code_of(f, "show other") == 4);
  CHECK(code_of(f, "watch quick") == 1);
  const std::string recipe = std::string(BP_SOURCE_DIR) + "/examples/recipes/quickstart.json";
  CHECK(code_of(f, "submit " + recipe) == 0);
  CHECK(code_of(f, "submit " + recipe + " --wait") == 1);
  CHECK(code_of(f, "up " + recipe) == 2);  // its address is a placeholder
  int code = -1;
  CHECK(run_bp(f, "show quick --json", code).find("\"state\":\"serving\"") != std::string::npos);
  CHECK(run_bp(f, "show other --json", code).find("\"code\":\"BP_NOT_FOUND\"") != std::string::npos);
}
