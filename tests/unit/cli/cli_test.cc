#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <cstdlib>

#include "bp/v1/control.pb.h"
#include "engine/cli/json_view.h"
#include "engine/cli/paths.h"
#include "engine/cli/progress.h"
#include "engine/cli/session.h"
#include "engine/cli/sse.h"

using namespace bp;
using namespace bp::cli;

namespace {

/// What an SSE parser makes of a body cut into pieces of `piece` bytes.
std::vector<std::string> events_of(const std::string& body, size_t piece) {
  std::vector<std::string> events;
  SseParser p([&](std::string_view data) {
    events.emplace_back(data);
    return true;
  });
  for (size_t at = 0; at < body.size(); at += piece)
    CHECK(p.feed(std::string_view(body).substr(at, piece)));
  return events;
}

v1::RunView a_run() {
  v1::RunView run;
  run.set_id("r-1");
  run.set_name("quick");
  run.set_state(v1::RUN_STATE_SERVING);
  run.set_endpoint("http://127.64.1.10:8000");
  run.set_created_wall_ms(1'700'000'000'123);
  run.mutable_epoch()->set_counter(7);
  auto* s = run.add_stages();
  s->set_name("fetch_weights");
  s->set_state(v1::STAGE_STATE_RUNNING);
  s->set_attempts_total(2);
  s->set_started_wall_ms(1'000);
  s->mutable_progress()->set_unit("bytes");
  s->mutable_progress()->set_done(50'000'000);
  s->mutable_progress()->set_total(100'000'000);
  auto* p = run.add_processes();
  p->set_role("rank");
  p->set_node_id("n1-0");
  p->mutable_identity()->set_pid(42);
  p->set_pp_rank(1);
  return run;
}

}  // namespace

TEST_CASE("server-sent events come out whole however they are cut") {
  const std::string body =
      ": hello\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata: two\ndata: lines\n\ndata:[DONE]\n\n";
  for (size_t piece = 1; piece <= body.size(); ++piece) {
    CHECK(events_of(body, piece) == std::vector<std::string>{"{\"a\":1}", "two\nlines", "[DONE]"});
  }
}

TEST_CASE("an event without end is refused") {
  SseParser p([](std::string_view) { return true; });
  bool ok = true;
  for (int i = 0; i < 40 && ok; ++i) ok = p.feed(std::string(64 << 10, 'x'));
  CHECK_FALSE(ok);
}

TEST_CASE("JSON of a run has plain words, numbers and what scripts ask for") {
  const auto v = boost::json::parse(to_json(a_run())).as_object();
  CHECK(v.at("state") == "serving");
  CHECK(v.at("created_wall_ms").as_int64() == 1'700'000'000'123);
  CHECK(v.at("error").is_null());
  CHECK(v.at("nodes").as_array().empty());
  const auto& stage = v.at("stages").as_array()[0].as_object();
  CHECK(stage.at("state") == "running");
  CHECK(stage.at("attempt").as_int64() == 0);
  const auto& process = v.at("processes").as_array()[0].as_object();
  CHECK(process.at("pid") == 42);
  CHECK(process.at("node") == "n1-0");
  CHECK(process.at("tp_rank") == 0);
  CHECK(process.at("pp_rank") == 1);
}

TEST_CASE("a stage's line says state, attempt, time and work") {
  const std::string line = stage_line(a_run().stages(0), 3'500);
  CHECK(line.find("running (attempt 2)") != std::string::npos);
  CHECK(line.find("2.5 s") != std::string::npos);
  CHECK(line.find("50.0/100.0 MB") != std::string::npos);
}

TEST_CASE("paths follow options, then the environment") {
  ::setenv("BP_STATE_DIR", "/tmp/bp-state-of-test", 1);
  ::unsetenv("BP_RUN_DIR");
  ::unsetenv("XDG_RUNTIME_DIR");
  auto p = resolve_paths({});
  REQUIRE(p.ok());
  CHECK(p->endpoint == "ipc:///tmp/bp-state-of-test/run/client.sock");
  p = resolve_paths({"/a", "/b", ""});
  REQUIRE(p.ok());
  CHECK(p->endpoint == "ipc:///b/client.sock");
  CHECK(p->pid_file() == "/a/daemon.pid");
  CHECK_FALSE(resolve_paths({"/a", "/b", "tcp://127.0.0.1:1"}).ok());
}

TEST_CASE("states at rest") {
  CHECK(run_rests(v1::RUN_STATE_FAILED));
  CHECK_FALSE(run_rests(v1::RUN_STATE_SERVING));
  CHECK_FALSE(run_rests(v1::RUN_STATE_STOPPING));
}
