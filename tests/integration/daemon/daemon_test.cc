// bp-daemon as a process, with real stage hosts: life of a run, kill -9 and recovery, orderly stop.
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "bp/v1/control.pb.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"

using namespace bp;

namespace {

const char* kWorkflow = R"({"name": "default", "version": 1, "stages": [
  {"name": "one", "plugin": "steps", "needs_secrets": true, "has_destroy": true,
   "options": {"do": "crash-once"},
   "retry": {"max_attempts": 5, "first_delay_ms": 20, "multiplier": 2, "max_delay_ms": 100},
   "heartbeat_timeout_ms": 20000},
  {"name": "two", "plugin": "steps", "after": ["one"], "needs_secrets": true, "options": {"do": "fail-once"},
   "retry": {"max_attempts": 5, "first_delay_ms": 20, "multiplier": 2, "max_delay_ms": 100},
   "heartbeat_timeout_ms": 20000},
  {"name": "three", "plugin": "steps", "after": ["two"], "keeps_running": true, "has_destroy": true,
   "options": {"do": "keep"},
   "retry": {"max_attempts": 5, "first_delay_ms": 20, "multiplier": 2, "max_delay_ms": 100},
   "heartbeat_timeout_ms": 20000}]})";

std::string recipe(const std::string& name) {
  return R"({"recipe_id": "t", "recipe_mode": "raycluster", "deployment_name": ")" + name + R"(",
    "recipe_node_shape": "VM.GPU.A10.2",
    "input_object_storage": [{"par":
       "https://objectstorage.eu-frankfurt-1.oraclecloud.com/p/hidden-token/n/ns/b/bucket/o/",
       "mount_location": "/models", "volume_size_in_gbs": 50, "include": ["m"]}],
    "recipe_node_pool_size": 2, "recipe_node_boot_volume_size_in_gbs": 200, "recipe_nvidia_gpu_count": 2,
    "recipe_ephemeral_storage_size": 100, "recipe_container_port": "8000",
    "recipe_raycluster_params": {"model_path_in_container": "/models/m", "head_node_num_cpus": "8",
      "head_node_num_gpus": "2", "head_node_cpu_mem_in_gbs": "64", "num_worker_nodes": "1",
      "worker_node_num_cpus": "8", "worker_node_num_gpus": "2", "worker_node_cpu_mem_in_gbs": "64"}})";
}

/// A state folder, and the daemon that lives on it.
struct Site {
  std::string dir = "/tmp/bp-daemon-" + random_hex(5);
  ProcessId daemon;
  std::unique_ptr<bus::Context> context;
  std::unique_ptr<bus::Dealer> dealer;
  uint64_t next_request = 1;
  std::vector<std::pair<std::string, std::string>> env;

  Site() {
    REQUIRE(make_dirs(dir + "/w").ok());
    REQUIRE(write_file_atomic(dir + "/w/default.json", kWorkflow).ok());
    context = bus::Context::start().value();
  }
  ~Site() {
    if (process_alive(daemon)) stop(SIGTERM);
    for (const auto& pid : hosts) (void)process_signal(pid, SIGKILL);
    dealer.reset();
    context.reset();
    (void)remove_tree(dir);
  }
  std::vector<ProcessId> hosts;

  Result<ProcessId> spawn() {
    SpawnOptions o;
    o.program = std::string(BP_BUILD_DIR) + "/bin/bp-daemon";
    o.args = {"--state-dir",    dir + "/s",
              "--run-dir",      dir + "/r",
              "--workflow-dir", dir + "/w",
              "--plugin-dir",   std::string(BP_BUILD_DIR) + "/tests/daemon_plugins",
              "--embedded"};
    o.log_file = dir + "/daemon.log";
    o.env = env;
    return process_spawn(o);
  }
  void start() {
    daemon = spawn().value();
    if (!dealer) dealer = bus::Dealer::dial(*context, {"ipc://" + dir + "/r/client.sock"}).value();
    v1::ClientRequest ping;
    ping.mutable_ping();
    REQUIRE(ask(ping).pong().embedded());
  }
  int stop(int signal) {
    REQUIRE(process_signal(daemon, signal).ok());
    for (int i = 0; i < 500; ++i) {
      int status = 0;
      if (::waitpid(daemon.pid, &status, WNOHANG) == daemon.pid)
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    FAIL("the daemon did not end");
    return 0;
  }
  v1::ClientReply next(uint64_t id) {
    for (;;) {
      auto got = dealer->recv(Deadline::in_ms(20'000));
      if (!got.ok())
        FAIL(got.error().to_string() + "\n" + read_file(dir + "/daemon.log", 1 << 20).value());
      auto reply = bus::parse<v1::ClientReply>(*got);
      REQUIRE(reply.ok());
      if (reply->request_id() == id) return std::move(reply).value();
    }
  }
  uint64_t send(v1::ClientRequest request) {
    request.set_request_id(next_request);
    request.set_protocol(1);
    REQUIRE(dealer->send(request.SerializeAsString()).ok());
    return next_request++;
  }
  v1::ClientReply ask(v1::ClientRequest request) { return next(send(std::move(request))); }
  v1::ClientReply submit(const std::string& json, const std::string& key = {}) {
    v1::ClientRequest r;
    r.mutable_submit()->set_recipe_json(json);
    r.mutable_submit()->set_idempotency_key(key);
    return ask(r);
  }
  v1::RunView show(const std::string& id) {
    v1::ClientRequest r;
    r.mutable_show()->set_id(id);
    return ask(r).run();
  }
  /// Watches until the stream ends; the last view.
  v1::RunView watch(const std::string& id, bool until_ready) {
    v1::ClientRequest r;
    r.mutable_watch()->set_id(id);
    r.mutable_watch()->set_until_ready(until_ready);
    const uint64_t request = send(r);
    for (;;) {
      auto reply = next(request);
      REQUIRE(!reply.has_error());
      for (const auto& s : reply.run().stages()) {
        if (s.has_host())
          hosts.push_back({s.host().pid(), s.host().start_ticks(), s.host().boot_id()});
      }
      if (reply.final()) return reply.run();
    }
  }
  v1::ClientReply stop_run(const std::string& id) {
    v1::ClientRequest r;
    r.mutable_stop()->set_id(id);
    return ask(r);
  }
};

}  // namespace

TEST_CASE(
    "a run survives a crash of its host, a failure, and kill -9 of the daemon; then it is "
    "stopped") {
  Site s;
  s.start();
  auto submitted = s.submit(recipe("Alpha One"), "k1");
  INFO(submitted.ShortDebugString());
  REQUIRE(submitted.has_submitted());
  CHECK(submitted.submitted().name() == "alpha-one");
  CHECK(submitted.submitted().stand_in() == "cpu stand-in for VM.GPU.A10.2");
  CHECK(s.submit(recipe("Alpha One"), "k1").submitted().existed());
  CHECK(s.submit(recipe("Alpha One")).error().code() == "BP_ALREADY_EXISTS");
  CHECK(s.submit(recipe("other"), "k1").error().code() == "BP_CONFLICT");

  auto view = s.watch("alpha-one", true);
  REQUIRE(view.state() == v1::RUN_STATE_SERVING);
  REQUIRE(view.stages_size() == 3);
  CHECK(view.stages(0).attempts_total() == 2);
  CHECK(view.stages(1).attempts_total() == 2);
  const auto host = view.stages(2).host();
  REQUIRE(host.pid() > 0);

  // A second daemon on the same folder is refused and harms nothing.
  auto second = s.spawn();
  REQUIRE(second.ok());
  int status = 0;
  REQUIRE(::waitpid(second->pid, &status, 0) == second->pid);
  CHECK(WEXITSTATUS(status) == 1);

  CHECK(s.stop(SIGKILL) == -SIGKILL);
  s.start();
  auto after = s.show(view.id());
  CHECK(after.state() == v1::RUN_STATE_SERVING);
  CHECK(after.stages(2).host().pid() == host.pid());
  CHECK(after.stages(2).attempts_total() == view.stages(2).attempts_total());

  // Its host dies: the next attempt takes over under a newer epoch.
  REQUIRE(process_signal({host.pid(), host.start_ticks(), host.boot_id()}, SIGKILL).ok());
  for (int i = 0; i < 200 && s.show(view.id()).stages(2).host().pid() == host.pid(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  auto again = s.watch(view.id(), true);
  CHECK(again.state() == v1::RUN_STATE_SERVING);
  CHECK(again.stages(2).epoch().counter() > after.stages(2).epoch().counter());

  v1::ClientRequest logs;
  logs.mutable_logs()->set_id(view.id());
  logs.mutable_logs()->set_stage("one");
  const uint64_t request = s.send(logs);
  std::string text;
  for (auto line = s.next(request); !line.final(); line = s.next(request))
    text += line.log().source() + "|" + line.log().text() + "\n";
  CHECK(text.find("one|info doing crash-once\none|info for ") != std::string::npos);

  CHECK(s.stop_run(view.id()).has_accepted());
  auto ended = s.watch(view.id(), false);
  CHECK(ended.state() == v1::RUN_STATE_STOPPED);
  CHECK(s.stop_run(view.id()).accepted().state() == v1::RUN_STATE_STOPPED);
  for (const auto& pid : s.hosts) CHECK(process_wait_gone(pid, Deadline::in_ms(10'000)).ok());

  v1::ClientRequest doctor;
  doctor.mutable_doctor()->set_replay(true);
  const uint64_t check = s.send(doctor);
  for (auto f = s.next(check); !f.final(); f = s.next(check)) {
    if (f.finding().check() == "journal" || f.finding().check() == "replay")
      CHECK(f.finding().level() == "ok");
  }
  CHECK(s.stop(SIGTERM) == 0);
  auto log = read_file(s.dir + "/daemon.log", 8 << 20);
  CHECK(log->find("hidden-token") == std::string::npos);
}

TEST_CASE("bad requests get clear answers") {
  Site s;
  s.start();
  auto bad = s.submit("{\"recipe_mode\": 3");
  CHECK(bad.error().code() == "BP_INVALID_RECIPE");
  CHECK(bad.error().problems_size() > 0);
  CHECK(s.submit(std::string(2 << 20, ' ')).error().code() == "BP_TOO_LARGE");
  v1::ClientRequest r;
  r.mutable_show()->set_id("nobody");
  CHECK(s.ask(r).error().code() == "BP_NOT_FOUND");
  r.mutable_watch()->set_id("nobody");
  CHECK(s.ask(r).error().code() == "BP_NOT_FOUND");
  r.mutable_cancel()->set_id("nobody");
  CHECK(s.ask(r).error().code() == "BP_NOT_FOUND");
  r.mutable_submit()->set_recipe_json(recipe("a"));
  r.mutable_submit()->set_workflow("none");
  CHECK(s.ask(r).error().message().find("there are: default") != std::string::npos);
  CHECK(s.ask({}).error().code() == "BP_PROTOCOL");

  // Garbage on every socket, then a proper request.
  for (const char* name : {"client.sock", "stage.sock"}) {
    auto d = bus::Dealer::dial(*s.context, {"ipc://" + s.dir + "/r/" + name}).value();
    for (int i = 0; i < 50; ++i) REQUIRE(d->send(random_hex(static_cast<size_t>(i * 7))).ok());
  }
  r.mutable_list()->set_all(true);
  CHECK(s.ask(r).list().runs_size() == 0);
  r.mutable_shutdown();
  CHECK(s.ask(r).has_accepted());
  CHECK(process_wait_gone(s.daemon, Deadline::in_ms(10'000)).ok());
}

TEST_CASE("systemd hears when the daemon is ready") {
  Site s;
  const std::string path = s.dir + "/notify";
  Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  path.copy(a.sun_path, sizeof a.sun_path - 1);
  REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
  s.env = {{"NOTIFY_SOCKET", path}, {"WATCHDOG_USEC", "200000"}};
  s.start();
  std::string heard;
  for (int i = 0; i < 3; ++i) {
    char buffer[100];
    ssize_t n = ::recv(fd.get(), buffer, sizeof buffer, 0);
    REQUIRE(n > 0);
    heard += std::string(buffer, static_cast<size_t>(n)) + " ";
  }
  CHECK(heard == "READY=1 WATCHDOG=1 WATCHDOG=1 ");
  CHECK(s.stop(SIGINT) == 0);
}
