// start_head, join_workers and serve against a played head and played nodes: first run, second run after a
// crash, and what each of them does when something it stands on is gone.
#include <catch2/catch.hpp>

#include "fixture.h"
#include "plugins/join_workers/stage.h"
#include "plugins/serve/stage.h"
#include "plugins/start_head/stage.h"

using namespace bp;
using namespace bp::test;
using sdk::StageHarness;

namespace {

const v1::AttemptResult::Outcome kOk = v1::AttemptResult::SUCCEEDED;

std::string code(ErrorCode c) { return std::string(error_name(c)); }

// A world in which start_head has succeeded.
struct World {
  Deployment d;
  FakeNodes nodes;
  std::unique_ptr<FakeHead> head;
  std::map<std::string, std::string> secrets;
  v1::HeadReady ready;

  World() {
    nodes.on_start = [this](const std::string&, const v1::StartProcess& s) {
      if (s.role() != v1::PROCESS_ROLE_HEAD) return;
      v1::HeadConfig c;
      REQUIRE(c.ParseFromString(s.config()));
      head.reset();
      head = std::make_unique<FakeHead>(
          bus::KeyPair{c.curve_public_key(), Secret(c.curve_secret_key())}, c.control_public_key(), c.client_port());
    };
  }
  void prepare(StageHarness& h) {
    set_inputs(h, d);
    for (const auto& [k, v] : secrets) (*h.attempt.mutable_secrets())[k] = v;
    (*h.attempt.mutable_inputs())["start_head.head"] = ready.SerializeAsString();
    h.node = [this](const std::string& id, const v1::NodeCommand& c) { return nodes(id, c); };
  }
  v1::AttemptResult start_head(uint64_t epoch) {
    StageHarness h;
    prepare(h);
    h.ref.mutable_epoch()->set_counter(epoch);
    stages::StartHead stage;
    auto r = h.run(stage);
    for (const auto& [k, v] : h.recorded().secrets) secrets[k] = v;
    if (r.outcome() == kOk) REQUIRE(ready.ParseFromString(r.outputs().at("head")));
    return r;
  }
  // The head as it is once all ranks of `epoch` are there.
  v1::HeadStatus serving(uint64_t epoch) {
    v1::HeadStatus s;
    s.mutable_group_epoch()->set_incarnation(1);
    s.mutable_group_epoch()->set_counter(epoch);
    s.set_ranks_expected(4);
    s.set_ranks_joined(4);
    s.set_serving(true);
    return s;
  }
  void serve_when_started() {
    head->on_expect = [this](const v1::Epoch& e) { head->set_status(serving(e.counter())); };
  }
  v1::AttemptResult join(uint64_t epoch, StageHarness& h) {
    prepare(h);
    h.ref.mutable_epoch()->set_counter(epoch);
    stages::JoinWorkers stage;
    return h.run(stage);
  }
  void prepare_serve(StageHarness& h) {
    prepare(h);
    v1::RanksReady ranks;
    ranks.mutable_group_epoch()->set_incarnation(1);
    ranks.mutable_group_epoch()->set_counter(9);
    (*h.attempt.mutable_inputs())["join_workers.ranks"] = ranks.SerializeAsString();
    (*h.attempt.mutable_options())["watch_ms"] = "20";
  }
};

}  // namespace

TEST_CASE("start_head starts a head once and finds it again") {
  World w;
  auto r = w.start_head(5);
  INFO(r.error().message());
  REQUIRE(r.outcome() == kOk);
  CHECK(w.nodes.starts == 1);
  CHECK(w.secrets.count("rank_secret_key") == 1);
  CHECK(w.ready.epoch().counter() == 5);
  v1::HeadConfig c;
  REQUIRE(c.ParseFromString(w.nodes.started["n1-0/head"].config()));
  CHECK(c.model_path() == "/work/n1-0/files/models/tiny/tiny.gguf");
  const std::string before = r.outputs().at("head");

  r = w.start_head(6);  // the attempt crashed before its result was kept
  REQUIRE(r.outcome() == kOk);
  CHECK(w.nodes.starts == 1);
  v1::HeadReady again;
  REQUIRE(again.ParseFromString(r.outputs().at("head")));
  CHECK(again.head_public_key() == c.curve_public_key());
  CHECK(again.epoch().counter() == 5);
  CHECK(r.outputs().at("head") == before);
}

TEST_CASE("start_head replaces a head whose keys are lost or that does not answer") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  SECTION("keys lost") { w.secrets.clear(); }
  SECTION("silent") { w.head.reset(); }
  auto r = w.start_head(6);
  REQUIRE(r.outcome() == kOk);
  CHECK(w.nodes.starts == 2);
  CHECK(w.ready.epoch().counter() == 6);
}

TEST_CASE("start_head names a busy port, and goes back when its node is gone") {
  World w;
  StageHarness h;
  w.prepare(h);
  stages::StartHead stage;
  SECTION("busy port") {
    w.nodes.on_start = [&](const std::string& id, const v1::StartProcess&) {
      h.notify(ended_notice(id, w.nodes.processes["n1-0/head"],
                            "E bp-head: BP_PORT_BUSY: 127.0.0.1:8000 is in use\n"));
    };
    auto r = h.run(stage);
    CHECK(r.error().code() == code(ErrorCode::kPortBusy));
    CHECK_THAT(r.error().message(), Catch::Contains("127.0.0.1:8000"));
    CHECK(r.rewind_to_stage().empty());
  }
  SECTION("node gone") {
    w.d.pool.mutable_nodes(0)->mutable_agent()->set_start_ticks(1);  // nobody has this identity
    w.prepare(h);
    auto r = h.run(stage);
    CHECK(r.rewind_to_stage() == "provision");
    CHECK(r.error().code() == code(ErrorCode::kPeerLost));
  }
}

TEST_CASE("start_head destroys what it started") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  StageHarness h;
  w.prepare(h);
  h.attempt.set_mode(v1::ATTEMPT_MODE_DESTROY);
  stages::StartHead stage;
  CHECK(h.run(stage).outcome() == kOk);
  CHECK(w.nodes.processes.empty());
}

TEST_CASE("join_workers starts all ranks in one epoch and keeps a whole group") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  w.serve_when_started();
  StageHarness h;
  auto r = w.join(9, h);
  INFO(r.error().message());
  REQUIRE(r.outcome() == kOk);
  CHECK(w.nodes.starts == 5);
  const auto& start = w.nodes.started["n1-1/rank-3"];
  CHECK(start.leased());
  REQUIRE(start.segments_size() == 3);
  CHECK(start.segments(0).name() == "weights-3");
  CHECK(start.segments(1).name() == "kv-3");
  CHECK(start.segments(2).name() == "comm-1");
  CHECK(start.segments(2).drop_with_epoch());
  v1::RankConfig c;
  REQUIRE(c.ParseFromString(start.config()));
  CHECK(c.group_epoch().counter() == 9);
  CHECK(c.rank_secret_key() == w.secrets["rank_secret_key"]);

  StageHarness second;
  r = w.join(10, second);
  REQUIRE(r.outcome() == kOk);
  CHECK(w.nodes.starts == 5);
  v1::RanksReady ranks;
  REQUIRE(ranks.ParseFromString(r.outputs().at("ranks")));
  CHECK(ranks.group_epoch().counter() == 9);
  CHECK(ranks.ranks_size() == 4);

  w.nodes.processes.erase("n1-1/rank-2");
  StageHarness third;
  REQUIRE(w.join(11, third).outcome() == kOk);
  CHECK(w.nodes.starts == 9);
}

TEST_CASE("join_workers says who is gone") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  StageHarness h;
  SECTION("a rank: try again") {
    w.nodes.on_start = [&](const std::string& id, const v1::StartProcess& s) {
      if (s.process_key() == "rank-3") h.notify(ended_notice(id, w.nodes.processes[id + "/rank-3"], "out of memory"));
    };
    auto r = w.join(9, h);
    CHECK(r.error().code() == code(ErrorCode::kPeerLost));
    CHECK(r.rewind_to_stage().empty());
    CHECK_THAT(r.error().message(), Catch::Contains("out of memory"));
  }
  SECTION("a rank of an older group: nothing") {
    w.serve_when_started();
    v1::ProcessStatus old;
    old.set_process_key("rank-1");
    old.set_role(v1::PROCESS_ROLE_RANK);
    old.mutable_epoch()->set_incarnation(1);
    old.mutable_epoch()->set_counter(3);
    h.notify(ended_notice("n1-0", old, ""));
    CHECK(w.join(9, h).outcome() == kOk);
  }
  SECTION("the head, by a notice: back to start_head") {
    w.nodes.on_start = [&](const std::string&, const v1::StartProcess& s) {
      if (s.process_key() == "rank-3") h.notify(ended_notice("n1-0", w.nodes.processes["n1-0/head"], "bye"));
    };
    CHECK(w.join(9, h).rewind_to_stage() == "start_head");
  }
  SECTION("the head, nothing listens: back to start_head") {
    w.head.reset();
    w.nodes.processes.erase("n1-0/head");
    CHECK(w.join(9, h).rewind_to_stage() == "start_head");
  }
  SECTION("a node, by a notice: back to provision") {
    v1::NodeNotice n;
    n.set_node_id("n1-1");
    n.set_node_lost(true);
    h.notify(n);
    CHECK(w.join(9, h).rewind_to_stage() == "provision");
  }
  SECTION("a node, its agent has ended: back to provision") {
    w.d.pool.mutable_nodes(1)->mutable_agent()->set_start_ticks(1);
    CHECK(w.join(9, h).rewind_to_stage() == "provision");
  }
}

TEST_CASE("join_workers stops every rank") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  w.serve_when_started();
  StageHarness h, down;
  REQUIRE(w.join(9, h).outcome() == kOk);
  w.prepare(down);
  down.attempt.set_mode(v1::ATTEMPT_MODE_DESTROY);
  stages::JoinWorkers stage;
  CHECK(down.run(stage).outcome() == kOk);
  CHECK(w.nodes.processes.size() == 1);  // the head
}

TEST_CASE("serve becomes ready after a canary and ends only when told") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  w.head->set_status(w.serving(9));
  StageHarness h;
  w.prepare_serve(h);
  stages::Serve stage;
  std::thread later([&] {
    auto until = Deadline::in_ms(5'000);
    while (!h.recorded().merged().ready() && !until.passed()) usleep(2'000);
    usleep(60'000);
    h.cancel();
  });
  auto r = h.run(stage);
  later.join();
  CHECK(r.outcome() == v1::AttemptResult::CANCELLED);
  CHECK(w.head->canaries() == 1);
  v1::EndpointReady e;
  REQUIRE(e.ParseFromString(h.recorded().merged().outputs().at("endpoint")));
  CHECK(e.url() == "http://127.0.0.1:8000");
  CHECK(e.first_token_ms() == 7);
}

TEST_CASE("serve goes back to the stage whose work is gone") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  w.head->set_status(w.serving(9));
  StageHarness h;
  w.prepare_serve(h);
  stages::Serve stage;
  v1::ProcessStatus p;
  p.mutable_epoch()->set_incarnation(1);
  SECTION("a rank ended") {
    p.set_process_key("rank-2");
    p.set_role(v1::PROCESS_ROLE_RANK);
    p.mutable_epoch()->set_counter(9);
    h.notify(ended_notice("n1-1", p, ""));
    CHECK(h.run(stage).rewind_to_stage() == "join_workers");
  }
  SECTION("the head ended") {
    p.set_process_key("head");
    p.set_role(v1::PROCESS_ROLE_HEAD);
    p.mutable_epoch()->set_counter(5);
    h.notify(ended_notice("n1-0", p, ""));
    CHECK(h.run(stage).rewind_to_stage() == "start_head");
  }
  SECTION("a node was lost") {
    v1::NodeNotice n;
    n.set_node_id("n1-1");
    n.set_node_lost(true);
    h.notify(n);
    CHECK(h.run(stage).rewind_to_stage() == "provision");
  }
  SECTION("an agent of this machine has ended") {
    w.d.pool.mutable_nodes(1)->mutable_agent()->set_start_ticks(1);
    w.prepare_serve(h);
    CHECK(h.run(stage).rewind_to_stage() == "provision");
  }
  SECTION("the group broke") {
    auto s = w.serving(9);
    s.mutable_group_error()->set_message("rank 2 at step 7");
    w.head->set_status(s);
    auto r = h.run(stage);
    CHECK(r.rewind_to_stage() == "join_workers");
    CHECK_THAT(r.error().message(), Catch::Contains("rank 2 at step 7"));
  }
  SECTION("the head is another group's") {
    w.head->set_status(w.serving(12));
    CHECK(h.run(stage).rewind_to_stage() == "join_workers");
  }
  SECTION("the head is gone without a notice") {
    w.head.reset();
    w.nodes.processes.clear();
    CHECK(h.run(stage).rewind_to_stage() == "start_head");
  }
  SECTION("the canary fails while all seems well: tried again") {
    w.head->fail_canary(true);
    auto r = h.run(stage);
    CHECK(r.rewind_to_stage().empty());
    CHECK(r.error().code() == code(ErrorCode::kPeerLost));
  }
}

TEST_CASE("serve drains the head when it ends") {
  World w;
  REQUIRE(w.start_head(5).outcome() == kOk);
  StageHarness h;
  w.prepare_serve(h);
  h.attempt.set_mode(v1::ATTEMPT_MODE_DESTROY);
  stages::Serve stage;
  SECTION("it lives") {
    CHECK(h.run(stage).outcome() == kOk);
    CHECK(w.head->drains() == 1);
  }
  SECTION("it is gone") {
    w.head.reset();
    CHECK(h.run(stage).outcome() == kOk);
  }
}
