// The real bp-head as a process: ports, keys, exit codes.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "bp/v1/rank.pb.h"
#include "engine/base/files.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"
#include "head_fixture.h"

namespace bp::rt {
namespace {

uint16_t free_port() {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
  socklen_t n = sizeof a;
  REQUIRE(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&a), &n) == 0);
  return ntohs(a.sin_port);
}

struct HeadProcess {
  HeadProcess() {
    folder = "/tmp/bp-head-" + std::to_string(::getpid()) + "-" + std::to_string(free_port());
    REQUIRE(make_dirs(folder).ok());
    config.set_run_id("run-1");
    config.set_deployment_name("test");
    config.mutable_epoch()->set_incarnation(1);
    config.mutable_epoch()->set_counter(7);
    config.set_address("127.0.0.1");
    config.set_http_port(free_port());
    config.set_rendezvous_port(free_port());
    config.set_dashboard_port(free_port());
    config.set_metrics_port(free_port());
    config.set_client_port(free_port());
    config.set_curve_public_key(head_keys.public_key);
    config.set_curve_secret_key(head_keys.secret_key.reveal());
    config.set_rank_public_key(rank_keys.public_key);
    config.set_control_public_key(control_keys.public_key);
    config.set_client_public_key(client_keys.public_key);
    config.set_model_path(std::string(BP_SOURCE_DIR) + "/tests/golden/text/small_bpe");
    config.mutable_plan()->set_tp_size(1);
    config.mutable_plan()->set_pp_size(1);
    config.mutable_plan()->add_nodes()->set_gpus(1);
    config.mutable_plan()->add_ranks();
    config.mutable_plan()->mutable_model()->set_name("small");
    config.mutable_plan()->set_kv_blocks(64);
    config.mutable_plan()->set_kv_block_tokens(16);
    config.mutable_plan()->set_max_context_tokens(512);
  }
  ~HeadProcess() {
    if (id.pid > 0) {
      (void)process_signal(id, SIGKILL);
      ::waitpid(id.pid, nullptr, 0);
    }
    (void)remove_tree(folder);
  }
  void start(const std::string& bytes) {
    Fd fd(::memfd_create("config", MFD_CLOEXEC));
    REQUIRE(::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    SpawnOptions o;
    o.program = std::string(BP_BUILD_DIR) + "/bin/bp-head";
    o.log_file = folder + "/log";
    o.fds = {{fd.get(), 3}};
    auto spawned = process_spawn(o);
    REQUIRE(spawned.ok());
    id = *spawned;
  }
  int exit_code() {
    int status = -1;
    REQUIRE(HeadFixture::eventually([&] { return ::waitpid(id.pid, &status, WNOHANG) == id.pid; },
                                    15'000));
    id.pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string log() {
    auto text = read_file(folder + "/log", 1 << 20);
    return text.ok() ? *text : "";
  }
  bool answers() {
    return HeadFixture::eventually([&] {
      Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
      sockaddr_in a{};
      a.sin_family = AF_INET;
      a.sin_port = htons(static_cast<uint16_t>(config.http_port()));
      a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0;
    });
  }
  v1::HeadReply ask(bus::Context& context, const bus::KeyPair& keys,
                    const v1::HeadRequest& request) {
    bus::DialOptions o;
    o.endpoint = "tcp://127.0.0.1:" + std::to_string(config.client_port());
    o.keys = keys;
    o.server_public_key = head_keys.public_key;
    auto dealer = bus::Dealer::dial(context, o);
    REQUIRE(dealer.ok());
    REQUIRE((*dealer)->send(request.SerializeAsString()).ok());
    auto answer = (*dealer)->recv(Deadline::in_ms(5000));
    REQUIRE(answer.ok());
    return *bus::parse<v1::HeadReply>(*answer);
  }

  std::string folder;
  v1::HeadConfig config;
  bus::KeyPair head_keys = bus::make_key_pair(), rank_keys = bus::make_key_pair();
  bus::KeyPair control_keys = bus::make_key_pair(), client_keys = bus::make_key_pair();
  ProcessId id;
};

}  // namespace

TEST_CASE("bp-head answers before its ranks are there, and ends cleanly", "[head][process]") {
  HeadProcess head;
  head.start(head.config.SerializeAsString());
  REQUIRE(head.answers());
  auto http = [&](uint32_t port, const std::string& request) {
    RawClient c(static_cast<uint16_t>(port));
    c.send(request);
    return c.read();
  };
  auto get = [](const std::string& path) { return "GET " + path + " HTTP/1.0\r\n\r\n"; };
  CHECK(http(head.config.http_port(), get("/health/live")).find("200 OK") != std::string::npos);
  CHECK(http(head.config.http_port(), get("/health/ready")).find("503 ") != std::string::npos);
  CHECK(http(head.config.metrics_port(), get("/metrics")).find("bp_head_serving") !=
        std::string::npos);
  CHECK(http(head.config.dashboard_port(), get("/state")).find("\"deployment\":\"test\"") !=
        std::string::npos);
  std::string refused =
      http(head.config.http_port(), HeadFixture::post("/v1/completions", R"({"prompt":"a"})"));
  CHECK(refused.find("503 ") != std::string::npos);
  CHECK(refused.find("Retry-After") != std::string::npos);

  auto context = bus::Context::start();
  REQUIRE(context.ok());
  v1::HeadRequest status;
  status.set_request_id(11);
  status.mutable_control()->mutable_status();
  auto reply = head.ask(**context, head.control_keys, status);
  CHECK(reply.request_id() == 11);
  CHECK(reply.control().status().epoch().counter() == 7);
  CHECK(!reply.control().status().serving());
  CHECK(reply.control().status().last_canary_age_ms() == -1);
  CHECK(head.ask(**context, head.client_keys, status).control().error().code() ==
        error_name(ErrorCode::kUnauthorized));
  v1::HeadRequest canary;
  canary.mutable_control()->mutable_canary();
  CHECK(head.ask(**context, head.control_keys, canary).control().error().code() ==
        error_name(ErrorCode::kUnavailable));
  v1::HeadRequest expect;
  expect.mutable_control()->mutable_expect_group()->mutable_group_epoch()->set_counter(3);
  CHECK(head.ask(**context, head.control_keys, expect).control().status().ranks_expected() == 1);
  expect.mutable_control()->mutable_expect_group()->mutable_group_epoch()->set_counter(2);
  CHECK(head.ask(**context, head.control_keys, expect).control().error().code() ==
        error_name(ErrorCode::kStaleEpoch));
  v1::HeadRequest generate;
  generate.mutable_generate()->set_text("Hi");
  CHECK(head.ask(**context, head.client_keys, generate).generate().error().code() ==
        error_name(ErrorCode::kUnavailable));

  HeadProcess second;  // the same ports: refused by name, with its own exit code
  second.start(head.config.SerializeAsString());
  CHECK(second.exit_code() == 3);
  CHECK(second.log().find("127.0.0.1:" + std::to_string(head.config.http_port())) !=
        std::string::npos);
  CHECK(second.log().find("BP_PORT_BUSY") != std::string::npos);

  (void)process_signal(head.id, SIGTERM);
  CHECK(head.exit_code() == 0);
  CHECK(head.log().find(head.head_keys.secret_key.reveal()) == std::string::npos);
  second.start(head.config.SerializeAsString());  // a successor can bind at once
  CHECK(head.answers());
}

TEST_CASE("bp-head refuses a configuration that is none", "[head][process]") {
  HeadProcess head;
  head.start("\xff\xff garbage");
  CHECK(head.exit_code() == 2);
  head.config.clear_plan();
  head.start(head.config.SerializeAsString());
  CHECK(head.exit_code() == 2);
  CHECK(head.log().find("plan.ranks") != std::string::npos);
}

}  // namespace bp::rt
