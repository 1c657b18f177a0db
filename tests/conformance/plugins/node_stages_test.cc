// validate, provision and fetch_weights: real stores, played nodes, agents that are real processes.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <fstream>

#include "engine/base/address_claim.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "fixture.h"
#include "plugins/fetch_weights/stage.h"
#include "plugins/provision/address_block.h"
#include "plugins/provision/local_agent.h"
#include "plugins/provision/stage.h"
#include "plugins/validate/stage.h"
#include "tests/support/par_store_process.h"
#include "tests/unit/plan/model_bytes.h"

using namespace bp;
using namespace bp::test;
using sdk::StageHarness;

namespace {

const v1::AttemptResult::Outcome kOk = v1::AttemptResult::SUCCEEDED;
std::string code(ErrorCode c) { return std::string(error_name(c)); }

// Empty when it cannot be had.
Fd listen_on(const std::string& address, uint32_t port) {
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(static_cast<uint16_t>(port));
  REQUIRE(::inet_pton(AF_INET, address.c_str(), &at.sin_addr) == 1);
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 || ::listen(fd.get(), 8) != 0) return {};
  return fd;
}

// A bin folder whose bp-node holds the agent's lock and sleeps; releasing kills it and removes its folder.
struct LocalWorld {
  TempDir dir;
  Deployment d;
  bool deaf = false;

  LocalWorld() {
    REQUIRE(make_dirs(dir / "bin").ok());
    d.recipe.set_container_port(free_port());
    d.recipe.set_redis_port(free_port());
    script("while [ $# -gt 0 ]; do [ \"$1\" = --work-dir ] && work=$2; shift; done\n"
           "exec flock -n -F \"$work/agent.lock\" sleep 100\n");
  }
  ~LocalWorld() {
    for (int i = 0; i < 2; ++i) kill(i);
  }
  void script(const std::string& body) {
    std::ofstream out(dir / "bin/bp-node");
    out << "#!/bin/sh\n" << body;
    out.close();
    ::chmod((dir / "bin/bp-node").c_str(), 0700);
  }
  std::string work_dir(int i) const { return dir / ("nodes/n1-" + std::to_string(i)); }
  void kill(int i) {
    auto agent = stages::find_agent(work_dir(i));
    if (!agent.ok()) return;
    (void)process_signal(*agent, SIGKILL);
    (void)process_wait_gone(*agent, Deadline::in_ms(2'000));
  }
  void prepare(StageHarness& h) {
    set_inputs(h, d);
    auto& o = *h.attempt.mutable_options();
    o["state_dir"] = dir.path();
    o["bin_dir"] = dir / "bin";
    h.node = [this](const std::string& id, const v1::NodeCommand& c) {
      const int i = id == "n1-0" ? 0 : 1;
      if (deaf || !stages::find_agent(work_dir(i)).ok()) {
        usleep(5'000);
        return sdk::node_error(ErrorCode::kDeadlineExceeded, "it never connected");
      }
      v1::NodeCommandReply r;
      if (c.has_list()) r.mutable_list();
      if (c.has_release()) {
        kill(i);
        BP_CHECK(remove_tree(work_dir(i)).ok());
      }
      return r;
    };
  }
};

}  // namespace

TEST_CASE("provision brings up agents, keeps living ones and replaces dead ones") {
  LocalWorld w;
  StageHarness h;
  w.prepare(h);
  stages::Provision stage;
  auto r = h.run(stage);
  INFO(r.error().message());
  REQUIRE(r.outcome() == kOk);
  v1::NodePool pool;
  REQUIRE(pool.ParseFromString(r.outputs().at("pool")));
  REQUIRE(pool.nodes_size() == 2);
  const auto prefix = stages::prefix_of(pool.nodes(0).address());
  REQUIRE(prefix);
  CHECK(pool.nodes(1).address() == *prefix + "11");
  CHECK(h.recorded().secrets.count("node-public-key/n1-0") == 1);
  struct stat st{};
  REQUIRE(::stat((w.work_dir(0) + "/node.key").c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  // The handle was there before anything else.
  REQUIRE_FALSE(h.recorded().beats.empty());
  CHECK_FALSE(h.recorded().beats.front().handle().empty());

  w.kill(1);
  StageHarness again;
  w.prepare(again);
  again.attempt.set_handle(r.handle());
  // What listens there by now is this deployment's own.
  auto own = listen_on(pool.nodes(0).address(), w.d.recipe.container_port());
  r = again.run(stage);
  REQUIRE(r.outcome() == kOk);
  v1::NodePool second;
  REQUIRE(second.ParseFromString(r.outputs().at("pool")));
  CHECK(second.nodes(0).address() == pool.nodes(0).address());
  CHECK(second.nodes(0).agent().pid() == pool.nodes(0).agent().pid());
  CHECK(second.nodes(1).agent().pid() != pool.nodes(1).agent().pid());
  CHECK(again.recorded().secrets["node-public-key/n1-0"] == h.recorded().secrets["node-public-key/n1-0"]);
}

TEST_CASE("provision goes on to the next addresses where a port or an address is another deployment's") {
  LocalWorld w;
  const std::string first = stages::block_prefix(stages::first_block(w.dir.path(), 1));
  const std::string next = stages::block_prefix(stages::first_block(w.dir.path(), 2));
  Fd taken;
  SECTION("a port of the head") { taken = listen_on(first + "10", w.d.recipe.redis_port()); }
  SECTION("a node's address") { taken = claim_address(first + "11").value(); }
  REQUIRE(taken);
  StageHarness h;
  w.prepare(h);
  stages::Provision stage;
  auto r = h.run(stage);
  REQUIRE(r.outcome() == kOk);
  v1::NodePool pool;
  REQUIRE(pool.ParseFromString(r.outputs().at("pool")));
  CHECK(pool.nodes(0).address() == next + "10");
  CHECK(pool.nodes(1).address() == next + "11");
  v1::NodePool saved;  // before anything was started
  REQUIRE(saved.ParseFromString(h.recorded().beats.front().handle()));
  CHECK(saved.nodes(1).address() == next + "11");
}

TEST_CASE("provision names a port that is taken on all addresses, and starts nothing") {
  LocalWorld w;
  Fd taken = listen_on("0.0.0.0", w.d.recipe.container_port());
  REQUIRE(taken);
  StageHarness h;
  w.prepare(h);
  stages::Provision stage;
  auto r = h.run(stage);
  CHECK(r.error().code() == code(ErrorCode::kPortBusy));
  const std::string first = stages::block_prefix(stages::first_block(w.dir.path(), 1));
  CHECK_THAT(r.error().message(),
             Catch::Contains(first + "10:" + std::to_string(w.d.recipe.container_port())));
  CHECK_FALSE(stages::find_agent(w.work_dir(0)).ok());
  CHECK(::access((w.dir / "nodes").c_str(), F_OK) != 0);
}

TEST_CASE("address blocks lie within 127.64.0.0/10 and have room for 245 nodes") {
  CHECK(stages::block_prefix(0) == "127.64.0.");
  CHECK(stages::block_prefix(stages::kAddressBlocks - 1) == "127.127.255.");
  CHECK(stages::address_in("127.64.0.", 244) == "127.64.0.254");
  CHECK(stages::address_in("127.64.0.", 245).empty());
  CHECK(stages::prefix_of("127.66.3.10") == "127.66.3.");
  for (const char* other : {"127.0.0.1", "10.66.3.10", "127.66.3", "127.66.300.1", "127.66.3.10x", ""}) {
    CHECK_FALSE(stages::prefix_of(other));
  }
  CHECK(stages::first_block("/a", 1) != stages::first_block("/b", 1));
  CHECK(stages::first_block("/a", 2) == (stages::first_block("/a", 1) + 1) % stages::kAddressBlocks);
}

TEST_CASE("provision tells why an agent does not come up") {
  LocalWorld w;
  w.script("echo 'cannot bind' >&2; exit 3\n");
  StageHarness h;
  w.prepare(h);
  stages::Provision stage;
  auto r = h.run(stage);
  CHECK(r.error().code() == code(ErrorCode::kPeerLost));
  CHECK_THAT(r.error().message(), Catch::Contains("cannot bind"));
}

TEST_CASE("provision removes everything of its run, also without a handle or with dead agents") {
  LocalWorld w;
  stages::Provision stage;
  {
    StageHarness up;
    w.prepare(up);
    REQUIRE(up.run(stage).outcome() == kOk);
  }
  StageHarness down;
  w.prepare(down);
  down.attempt.set_mode(v1::ATTEMPT_MODE_DESTROY);
  SECTION("agents live") {}
  SECTION("an agent is dead") { w.kill(0); }
  SECTION("it is done already") {
    for (int i = 0; i < 2; ++i) {
      w.kill(i);
      REQUIRE(remove_tree(w.work_dir(i)).ok());
    }
  }
  auto r = down.run(stage);
  INFO(r.error().message());
  CHECK(r.outcome() == kOk);
  CHECK_FALSE(stages::find_agent(w.work_dir(0)).ok());
  CHECK(::access(w.work_dir(0).c_str(), F_OK) != 0);
  CHECK(::access(w.work_dir(1).c_str(), F_OK) != 0);
}

TEST_CASE("provision names what it cannot confirm gone") {
  LocalWorld w;
  stages::Provision stage;
  StageHarness up, down;
  w.prepare(up);
  REQUIRE(up.run(stage).outcome() == kOk);
  w.kill(0);
  w.kill(1);
  w.script("exit 1\n");  // no successor comes up
  w.prepare(down);
  down.attempt.set_mode(v1::ATTEMPT_MODE_DESTROY);
  auto r = down.run(stage);
  CHECK(r.outcome() == v1::AttemptResult::NEEDS_HUMAN);
  REQUIRE(r.survivors_size() == 2);
  CHECK_THAT(r.survivors(0), Catch::Contains(w.work_dir(0)));
}

TEST_CASE("fetch_weights asks every node once and reports bytes") {
  Deployment d;
  StageHarness h;
  set_inputs(h, d);
  std::map<std::string, int> polls;
  bool forget = false;
  SECTION("straight") {}
  SECTION("an agent's successor knows nothing of the order") { forget = true; }
  h.node = [&](const std::string& id, const v1::NodeCommand& c) {
    v1::NodeCommandReply r;
    if (c.has_fetch()) {
      CHECK(c.fetch().fetch_key() == h.attempt.effect_key());
      CHECK(c.fetch().objects(0).path() == "/models/tiny/tiny.gguf");
      CHECK(c.fetch().sources(0).par_url() == "http://127.0.0.1/p/token/n/ns/b/models/o/");
    } else if (forget && id == "n1-1") {
      forget = false;
      return sdk::node_error(ErrorCode::kNotFound, "no such fetch");
    }
    const int n = ++polls[id];
    r.mutable_fetch()->set_bytes_total(1000);
    r.mutable_fetch()->set_bytes_done(n < 3 ? 100 * static_cast<uint64_t>(n) : 1000);
    r.mutable_fetch()->set_bytes_from_cache(id == "n1-0" ? 1000 : 0);
    r.mutable_fetch()->set_done(n >= 3);
    return r;
  };
  stages::FetchWeights stage;
  auto r = h.run(stage);
  REQUIRE(r.outcome() == kOk);
  v1::WeightsReady weights;
  REQUIRE(weights.ParseFromString(r.outputs().at("weights")));
  CHECK(weights.model_path() == "files/models/tiny/tiny.gguf");
  CHECK(weights.bytes_from_cache() == 1000);
  CHECK(weights.bytes_fetched() == 1000);
  CHECK(h.recorded().merged().progress().done() == 2000);
}

TEST_CASE("fetch_weights passes on what a node says, and goes back when a node is gone") {
  Deployment d;
  StageHarness h;
  stages::FetchWeights stage;
  SECTION("a store's error") {
    set_inputs(h, d);
    h.node = [&](const std::string&, const v1::NodeCommand&) {
      v1::NodeCommandReply r;
      r.mutable_fetch()->mutable_error()->set_code(code(ErrorCode::kHttpStatus));
      r.mutable_fetch()->mutable_error()->set_message("403 from the store");
      return r;
    };
    auto r = h.run(stage);
    CHECK(r.error().code() == code(ErrorCode::kHttpStatus));
    CHECK(r.rewind_to_stage().empty());
  }
  SECTION("a node gone") {
    d.pool.mutable_nodes(1)->mutable_agent()->set_start_ticks(1);
    set_inputs(h, d);
    h.node = [&](const std::string&, const v1::NodeCommand&) {
      v1::NodeCommandReply r;
      r.mutable_fetch()->set_done(true);
      return r;
    };
    CHECK(h.run(stage).rewind_to_stage() == "provision");
  }
}

TEST_CASE("validate plans from the model's header, and tells what is wrong with stores and models") {
  ParStoreProcess store;
  StageHarness h;
  v1::Recipe recipe;
  recipe.set_canonical_name("demo");
  recipe.set_node_shape("VM.GPU.A10.2");
  recipe.set_node_pool_size(2);
  recipe.set_gpus_per_node(1);
  recipe.set_cpus_per_node(4);
  recipe.set_memory_gbs_per_node(64);
  recipe.set_boot_volume_gbs(100);
  recipe.set_ephemeral_storage_gbs(100);
  recipe.set_model_path("/models/tiny");
  auto* storage = recipe.add_object_storage();
  storage->set_par_secret("par-0");
  storage->set_mount_location("/models");
  storage->set_volume_size_gbs(10);
  (*h.attempt.mutable_inputs())["recipe"] = recipe.SerializeAsString();
  (*h.attempt.mutable_secrets())["par-0"] = store.url();
  (*h.attempt.mutable_options())["allow_private_stores"] = "1";
  const std::string gguf = plan::test::tiny_gguf().bytes();
  stages::Validate stage;
  SECTION("good") {
    store.put("tiny/tiny.gguf", gguf);
    auto r = h.run(stage);
    INFO(r.error().message());
    REQUIRE(r.outcome() == kOk);
    v1::DeploymentPlan plan;
    REQUIRE(plan.ParseFromString(r.outputs().at("plan")));
    CHECK(plan.ranks_size() == 2);
    CHECK(plan.model().model_file() == "/models/tiny/tiny.gguf");
  }
  SECTION("no model there") {
    store.put("other/readme.txt", "x");
    auto r = h.run(stage);
    CHECK(r.error().code() == code(ErrorCode::kInvalidRecipe));
    CHECK(r.error().problems_size() > 0);
    CHECK_THAT(r.error().message(), Catch::Contains("model_path_in_container"));
  }
  SECTION("a truncated model") {
    store.put("tiny/tiny.gguf", gguf.substr(0, 200));
    auto r = h.run(stage);
    CHECK(r.error().code() == code(ErrorCode::kCorruptData));
    CHECK_THAT(r.error().message(), Catch::Contains("tiny/tiny.gguf"));
  }
  SECTION("private stores are not allowed") {
    (*h.attempt.mutable_options())["allow_private_stores"] = "0";
    CHECK(h.run(stage).error().code() == code(ErrorCode::kForbiddenAddress));
  }
  SECTION("the store refuses, and the bearer token stays out of the text") {
    store.faults(R"([{"on": "list", "status": 403}])");
    auto r = h.run(stage);
    CHECK(r.error().code() == code(ErrorCode::kHttpStatus));
    CHECK(r.error().message().find(store.token()) == std::string::npos);
  }
  SECTION("no PAR") {
    h.attempt.clear_secrets();
    CHECK(h.run(stage).error().code() == code(ErrorCode::kNotFound));
  }
}
