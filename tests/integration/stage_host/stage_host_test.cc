// bp-stage-host against a daemon played by PluginHarness, over real sockets and processes.
#include <signal.h>

#include <catch2/catch.hpp>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "plugins/sdk/harness.h"

using namespace bp;
using namespace bp::sdk;

namespace {

struct TempDir {
  std::string path = "/tmp/" + random_id("bpsh");
  TempDir() { REQUIRE(make_dirs(path).ok()); }
  ~TempDir() { (void)remove_tree(path); }
};

std::unique_ptr<PluginHarness> start(const TempDir& dir, const std::string& plugin,
                                     std::vector<std::string> args = {}) {
  PluginHarnessOptions o;
  o.host_program = std::string(BP_BUILD_DIR) + "/bin/bp-stage-host";
  o.plugin = plugin[0] == '/' ? plugin : std::string(BP_BUILD_DIR) + "/tests/plugins/" + plugin;
  o.run_dir = dir.path;
  o.host_args = std::move(args);
  auto h = PluginHarness::start(std::move(o));
  REQUIRE(h.ok());
  return std::move(*h);
}

v1::AttemptRef make_ref() {
  v1::AttemptRef ref;
  ref.set_run_id("r-1");
  ref.set_stage("probe");
  ref.set_attempt(1);
  ref.mutable_epoch()->set_incarnation(1);
  ref.mutable_epoch()->set_counter(7);
  return ref;
}

v1::RunAttempt make_attempt(const std::string& what) {
  v1::RunAttempt a;
  a.set_mode(v1::ATTEMPT_MODE_APPLY);
  a.set_effect_key("r-1/probe/0/1");
  (*a.mutable_options())["do"] = what;
  (*a.mutable_inputs())["name"] = "world";
  return a;
}

const int64_t kLongMs = 10'000;

v1::AttemptResult run(PluginHarness& h, const std::string& what) {
  h.send_attempt(make_ref(), make_attempt(what));
  auto r = h.result(Deadline::in_ms(kLongMs));
  REQUIRE(r.ok());
  auto code = h.exit_code(Deadline::in_ms(kLongMs));
  REQUIRE(code.ok());
  CHECK(*code == 0);
  return *r;
}

}  // namespace

TEST_CASE("a stage runs and its result is delivered once acknowledged") {
  TempDir dir;
  auto h = start(dir, "probe.so");
  auto hello = h->hello(Deadline::in_ms(kLongMs));
  REQUIRE(hello.ok());
  CHECK(hello->plugin() == "probe");
  CHECK(hello->plugin_version() == 3);
  CHECK(hello->process().pid() == h->host().pid);
  CHECK_FALSE(hello->has_load_error());
  auto r = run(*h, "hello");
  CHECK(r.outcome() == v1::AttemptResult::SUCCEEDED);
  CHECK(r.outputs().at("value") == "hello world");
}

TEST_CASE("a result is repeated until it is acknowledged") {
  TempDir dir;
  auto h = start(dir, "probe.so");
  h->send_attempt(make_ref(), make_attempt("hello"));
  REQUIRE(h->result(Deadline::in_ms(kLongMs), false).ok());
  auto until = Deadline::in_ms(kLongMs);
  while (h->results_seen() < 3 && !until.passed()) usleep(10'000);
  CHECK(h->results_seen() >= 3);
  CHECK(h->exit_code(Deadline::in_ms(0)).error().code == ErrorCode::kDeadlineExceeded);
  REQUIRE(h->result(Deadline::in_ms(kLongMs), true).ok());
  CHECK(*h->exit_code(Deadline::in_ms(kLongMs)) == 0);
}

TEST_CASE("plugins that cannot be loaded are refused with a sentence and exit code 4") {
  TempDir dir;
  std::string plugin, expected;
  SECTION("no file") { plugin = "missing.so"; expected = "cannot be opened"; }
  SECTION("another ABI") { plugin = "other_abi.so"; expected = "ABI version 9, this host speaks version 1"; }
  SECTION("no plugin") { plugin = "/lib/x86_64-linux-gnu/libm.so.6"; expected = "exports no bp_stage_entry"; }
  auto h = start(dir, plugin);
  auto hello = h->hello(Deadline::in_ms(kLongMs));
  REQUIRE(hello.ok());
  CHECK(hello->load_error().code() == error_name(ErrorCode::kPluginLoad));
  CHECK_THAT(hello->load_error().message(), Catch::Contains(expected));
  CHECK(*h->exit_code(Deadline::in_ms(kLongMs)) == 4);
}

TEST_CASE("a stage that throws or returns too much fails its attempt") {
  TempDir dir;
  auto h = start(dir, "probe.so");
  SECTION("throws") {
    auto r = run(*h, "throw");
    CHECK(r.outcome() == v1::AttemptResult::FAILED);
    CHECK(r.error().code() == error_name(ErrorCode::kPluginCrash));
    CHECK_THAT(r.error().message(), Catch::Contains("thrown on purpose"));
  }
  SECTION("too much") { CHECK(run(*h, "big").error().code() == error_name(ErrorCode::kTooLarge)); }
}

TEST_CASE("a stage that crashes takes only its host along") {
  TempDir dir;
  auto h = start(dir, "probe.so");
  h->send_attempt(make_ref(), make_attempt("crash"));
  auto code = h->exit_code(Deadline::in_ms(kLongMs));
  REQUIRE(code.ok());
  CHECK(*code == -SIGSEGV);
}

TEST_CASE("cancel reaches the stage; beats carry handle and checkpoint") {
  TempDir dir;
  auto h = start(dir, "probe.so");
  h->send_attempt(make_ref(), make_attempt("wait"));
  auto until = Deadline::in_ms(kLongMs);
  while (h->recorded().merged().progress().total() != 2 && !until.passed()) usleep(5'000);
  auto all = h->recorded().merged();
  CHECK(all.handle() == "thing-1");
  CHECK(all.checkpoint() == "half");
  CHECK(all.progress().total() == 2);
  h->send_cancel(1000);
  auto r = h->result(Deadline::in_ms(kLongMs));
  REQUIRE(r.ok());
  CHECK(r->outcome() == v1::AttemptResult::CANCELLED);
  CHECK(r->handle() == "thing-1");
}

TEST_CASE("node calls, secrets and notices pass") {
  TempDir dir;
  auto h = start(dir, "probe.so");
  SECTION("call") {
    h->set_node([](const std::string&, const v1::NodeCommand& c) {
      v1::NodeCommandReply r;
      CHECK(c.has_list());
      CHECK(c.epoch().counter() == 7);
      CHECK(c.run_id() == "r-1");
      r.mutable_list()->add_processes();
      return r;
    });
    CHECK(run(*h, "call").outputs().at("value") == "1");
    CHECK(h->recorded().secrets["s"] == "value");
    CHECK(h->recorded().logs == std::vector<std::string>{"info: calling"});
  }
  SECTION("notice") {
    v1::NodeNotice n;
    n.mutable_process_ended()->set_process_key("rank-3");
    h->send_attempt(make_ref(), make_attempt("notice"));
    h->send_notice(n);
    auto r = h->result(Deadline::in_ms(kLongMs));
    REQUIRE(r.ok());
    CHECK(r->outputs().at("value") == "rank-3");
  }
}

TEST_CASE("the daemon may go away while a stage waits for a node") {
  TempDir dir;
  auto h = start(dir, "probe.so");
  h->send_attempt(make_ref(), make_attempt("call"));
  auto until = Deadline::in_ms(kLongMs);
  while (h->recorded().calls.empty() && !until.passed()) usleep(2'000);
  h->go_away();
  usleep(300'000);
  h->set_node([](const std::string&, const v1::NodeCommand&) {
    v1::NodeCommandReply r;
    r.mutable_list();
    return r;
  });
  REQUIRE(h->come_back().ok());
  auto r = h->result(Deadline::in_ms(kLongMs));
  REQUIRE(r.ok());
  CHECK(r->outputs().at("value") == "0");
  CHECK(h->hellos() >= 2);
  CHECK(h->recorded().calls.front().call_id() == h->recorded().calls.back().call_id());
}

TEST_CASE("a host whose daemon stays away ends its attempt and itself") {
  TempDir dir;
  auto h = start(dir, "probe.so", {"--away-limit-ms", "300"});
  h->send_attempt(make_ref(), make_attempt("wait"));
  auto until = Deadline::in_ms(kLongMs);
  while (h->recorded().beats.empty() && !until.passed()) usleep(2'000);
  h->go_away();
  usleep(800'000);
  REQUIRE(h->come_back().ok());
  auto r = h->result(Deadline::in_ms(kLongMs));
  REQUIRE(r.ok());
  CHECK(r->outcome() == v1::AttemptResult::CANCELLED);
}

TEST_CASE("a host without an attempt ends") {
  TempDir dir;
  auto h = start(dir, "probe.so", {"--idle-limit-ms", "300"});
  REQUIRE(h->hello(Deadline::in_ms(kLongMs)).ok());
  CHECK(*h->exit_code(Deadline::in_ms(kLongMs)) == 5);
}
