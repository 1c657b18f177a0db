// Many small runs through a shared stage host: the fast way of a client, a daemon that dies in the
// midst of them, a host that dies with attempts in it.
#include <signal.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <set>

#include "bp/v1/control.pb.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"

using namespace bp;

namespace {

std::string stage(int n) {
  const std::string name = "s" + std::to_string(n);
  const std::string from = n == 1 ? R"({"run_input": "payload"})"
                                  : R"({"output": "s)" + std::to_string(n - 1) + R"(.value"})";
  const std::string after = n == 1 ? "" : R"("after": ["s)" + std::to_string(n - 1) + R"("],)";
  return R"({"name": ")" + name + R"(", "plugin": "noop", "isolation": "ISOLATION_SHARED",)" +
         after + R"("retry": {"max_attempts": 1}, "inputs": {"payload": )" + from + "}}";
}

struct Site {
  std::string dir = "/tmp/bp-shared-" + random_hex(5);
  ProcessId daemon;
  std::unique_ptr<bus::Context> context = bus::Context::start().value();
  std::unique_ptr<bus::Dealer> dealer;
  uint64_t requests = 0;

  Site() {
    std::string stages;
    for (int i = 1; i <= 6; ++i) stages += (i > 1 ? "," : "") + stage(i);
    REQUIRE(make_dirs(dir + "/w").ok());
    REQUIRE(write_file_atomic(dir + "/w/default.json",
                              R"({"name": "default", "version": 1, "stages": [)" + stages + "]}")
                .ok());
  }
  ~Site() {
    kill_daemon();
    for (const auto& host : hosts()) (void)process_signal(host, SIGKILL);
    dealer.reset();
    context.reset();
    (void)remove_tree(dir);
  }
  void start(const std::vector<std::string>& more = {}) {
    SpawnOptions o;
    o.program = std::string(BP_BUILD_DIR) + "/bin/bp-daemon";
    o.args = {"--state-dir",    dir + "/s", "--run-dir",    dir + "/r",
              "--workflow-dir", dir + "/w", "--plugin-dir", std::string(BP_BUILD_DIR) + "/tests/plugins"};
    o.args.insert(o.args.end(), more.begin(), more.end());
    o.log_file = dir + "/log";
    daemon = process_spawn(o).value();
    dealer = bus::Dealer::dial(*context, {"ipc://" + dir + "/r/client.sock", {}, {}, {}, 0}).value();
  }
  void kill_daemon() {
    if (daemon.pid == 0) return;
    (void)process_signal(daemon, SIGKILL);
    ::waitpid(daemon.pid, nullptr, 0);
    daemon = {};
  }
  std::vector<ProcessId> hosts() const {
    std::vector<ProcessId> found;
    std::error_code ec;
    for (const auto& e : std::filesystem::directory_iterator("/proc", ec)) {
      auto line = read_file(e.path().string() + "/cmdline", 64 << 10);
      if (!line.ok() || line->find("bp-stage-host") == std::string::npos) continue;
      if (line->find(dir + "/r/") == std::string::npos) continue;
      auto id = process_identity(std::stoi(e.path().filename().string()));
      if (id.ok()) found.push_back(*id);
    }
    return found;
  }
  uint64_t send(v1::ClientRequest r) {
    r.set_request_id(++requests);
    r.set_protocol(1);
    REQUIRE(dealer->send(r.SerializeAsString()).ok());
    return requests;
  }
  v1::ClientReply next(uint64_t id) {
    for (;;) {
      auto got = dealer->recv(Deadline::in_ms(30'000));
      if (!got.ok()) FAIL(got.error().to_string() + read_file(dir + "/log", 1 << 20).value());
      v1::ClientReply reply;
      REQUIRE(reply.ParseFromString(*got));
      INFO(reply.ShortDebugString());
      REQUIRE(!reply.has_error());
      if (reply.request_id() == id) return reply;
    }
  }
  std::vector<std::string> submit(int count, const std::string& keys) {
    v1::ClientRequest r;
    for (int i = 0; i < count; ++i) {
      auto* run = r.mutable_submit_runs()->add_runs();
      run->set_workflow("default");
      (*run->mutable_inputs())["payload"] = std::string(256, 'p');
      if (!keys.empty()) run->set_idempotency_key(keys + std::to_string(i));
    }
    const auto reply = next(send(std::move(r)));
    std::vector<std::string> ids;
    for (const auto& run : reply.runs_submitted().runs()) {
      INFO(run.ShortDebugString());
      REQUIRE(!run.run_id().empty());
      ids.push_back(run.run_id());
    }
    return ids;
  }
  /// Waits until all have ended; each is told once, as succeeded.
  void all_succeed(const std::vector<std::string>& ids) {
    v1::ClientRequest r;
    for (const auto& id : ids) r.mutable_watch_ends()->add_run_ids(id);
    const uint64_t request = send(std::move(r));
    std::set<std::string> ended;
    for (bool last = false; !last;) {
      const auto reply = next(request);
      last = reply.final();
      for (const auto& end : reply.ends().ends()) {
        CHECK(end.state() == v1::RUN_STATE_SUCCEEDED);
        CHECK(ended.insert(end.run_id()).second);
      }
    }
    CHECK(ended == std::set<std::string>(ids.begin(), ids.end()));
  }
};

}  // namespace

TEST_CASE("runs go on where a killed daemon left them, and repeated submits find them") {
  Site site;
  site.start();
  const auto ids = site.submit(400, "key-");
  CHECK(std::set<std::string>(ids.begin(), ids.end()).size() == 400);
  site.kill_daemon();
  site.start();
  CHECK(site.submit(400, "key-") == ids);
  site.all_succeed(ids);
  CHECK(site.submit(400, "key-") == ids);
  site.kill_daemon();
  site.start();
  CHECK(site.submit(400, "key-") == ids);
  site.all_succeed(ids);
}

TEST_CASE("when a shared host dies its attempts run again alone, without using up a retry") {
  Site site;
  site.start();
  site.all_succeed(site.submit(1, ""));  // the host is there
  const auto ids = site.submit(12, "");
  for (const auto& host : site.hosts()) (void)process_signal(host, SIGKILL);
  site.all_succeed(ids);
}

TEST_CASE("a paused daemon takes runs in and dispatches none; the next start does") {
  Site site;
  site.start({"--start-paused"});
  const auto ids = site.submit(20, "");
  CHECK(site.hosts().empty());
  v1::ClientRequest show;
  show.mutable_show()->set_id(ids[0]);
  CHECK(site.next(site.send(show)).run().stages(0).state() == v1::STAGE_STATE_QUEUED);
  site.kill_daemon();
  site.start();
  site.all_succeed(ids);
}
