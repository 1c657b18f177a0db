// Signals, sleeps, delayed starts, and the time of a whole run.
#include "engine/base/limits.h"
#include "tests/unit/core/core_fixture.h"

using namespace bp;
using namespace bp::core;

TEST_CASE("core: a stage waits for its signal, sent before or while it waits, in order") {
  Driver d;
  d.submit(workflow_of({signal_def("one", "go"), signal_def("two", "go", {"one"}),
                        stage_def("end", {"two"})}));
  CHECK(d.at("one") == v1::STAGE_STATE_WAITING);
  CHECK(next_of(d.state).actor == storage::Actor::kSignal);
  CHECK(next_of(d.state).by_boot_ms == 0);
  CHECK(why(d.state).find("signal go") != std::string::npos);
  SECTION("while it waits") {
    d.signal("other", "0");
    CHECK(d.at("one") == v1::STAGE_STATE_WAITING);
    d.signal("go", "1");
    CHECK(d.at("two") == v1::STAGE_STATE_WAITING);
    d.signal("go", "2");
  }
  SECTION("two at once") {
    d.pause();
    d.signal("go", "1");
    d.signal("go", "2");
    CHECK(d.at("one") == v1::STAGE_STATE_SUCCEEDED);
    CHECK(d.at("two") == v1::STAGE_STATE_PENDING);
    d.resume();
  }
  CHECK(d.stage("one").outputs->front().bytes == "1");
  CHECK(d.stage("two").outputs->front().bytes == "2");
  CHECK(d.at("end") == v1::STAGE_STATE_QUEUED);
}

TEST_CASE("core: signals that came early are taken in the order in which they came") {
  Driver d;
  d.submit(workflow_of({stage_def("first"), signal_def("one", "go", {"first"}),
                        signal_def("two", "go", {"one"}), stage_def("end", {"two"})}));
  d.start("first");
  d.signal("go", "1");
  d.signal("on", "x");
  d.signal("go", "2");
  d.succeed("first");
  CHECK(d.stage("one").outputs->front().bytes == "1");
  CHECK(d.stage("two").outputs->front().bytes == "2");
  CHECK(d.at("end") == v1::STAGE_STATE_QUEUED);
  REQUIRE(d.state.rarely().signals.size() == 1);
  CHECK(d.state.rarely().signals[0].name == "on");
}

TEST_CASE("core: signals are bounded and refused, never dropped") {
  Driver d;
  d.submit();
  for (size_t i = 0; i < kSignalsMax; ++i) CHECK(d.signal("s").accepted.ok());
  CHECK(d.signal("s").accepted.error().code == ErrorCode::kUnavailable);
  CHECK(d.signal("").accepted.error().code == ErrorCode::kInvalidArgument);
  CHECK(d.signal("s", std::string(limits::kInlinePayloadBytes + 1, 'x')).accepted.error().code ==
        ErrorCode::kTooLarge);
  d.cancel();
  CHECK(d.signal("s").accepted.error().code == ErrorCode::kConflict);
}

TEST_CASE("core: a command that is repeated under its key is applied once") {
  Driver d;
  d.submit();
  v1::Event e;
  e.mutable_signal_received()->set_name("s");
  e.set_request_key("k1");
  CHECK(d.feed(e).changed);
  CHECK(!d.feed(e).changed);
  CHECK(d.last.accepted.ok());
  e.set_request_key("k2");
  CHECK(d.feed(e).changed);
  CHECK(d.state.rarely().signals.size() == 2);
}

TEST_CASE("core: a wait without its signal fails in time, and may try again") {
  v1::WorkflowDefinition w = workflow_of({signal_def("ask", "go")});
  w.mutable_stages(0)->set_run_timeout_ms(1000);
  w.mutable_stages(0)->mutable_retry()->set_max_attempts(2);
  Driver d;
  d.submit(w);
  CHECK(next_of(d.state).by_boot_ms == d.now + 1000);
  d.fire("ask", v1::TIMER_KIND_SIGNAL);
  CHECK(d.at("ask") == v1::STAGE_STATE_BACKOFF);
  d.fire("ask", v1::TIMER_KIND_RETRY);
  CHECK(d.at("ask") == v1::STAGE_STATE_WAITING);
  d.fire("ask", v1::TIMER_KIND_SIGNAL);
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(d.state.error()->code() == "BP_DEADLINE_EXCEEDED");
}

TEST_CASE("core: a stage sleeps, and a run starts later") {
  Driver d;
  v1::Event e = Feeder::submitted(workflow_of({sleep_def("nap", 500), stage_def("end", {"nap"})}));
  e.mutable_submitted()->set_start_after_ms(2000);
  d.feed(e);
  CHECK(d.at("nap") == v1::STAGE_STATE_PENDING);
  CHECK(next_of(d.state).actor == storage::Actor::kTimer);
  CHECK(next_of(d.state).by_boot_ms == d.now + 2000);
  SECTION("in time") {
    d.fire("", v1::TIMER_KIND_SLEEP);
    CHECK(d.at("nap") == v1::STAGE_STATE_WAITING);
    CHECK(next_of(d.state).by_boot_ms == d.now + 500);
    d.fire("nap", v1::TIMER_KIND_SLEEP);
    CHECK(d.at("end") == v1::STAGE_STATE_QUEUED);
  }
  SECTION("cancelled before") {
    d.cancel();
    CHECK(d.state.n.state == v1::RUN_STATE_CANCELLED);
  }
}

TEST_CASE("core: the total time of a run ends it, whatever it does") {
  v1::WorkflowDefinition w = workflow_of({stage_def("a")});
  w.set_run_total_timeout_ms(60'000);
  Driver d;
  d.submit(w);
  d.start("a");
  d.fire("", v1::TIMER_KIND_RUN_TOTAL);
  CHECK(d.at("a") == v1::STAGE_STATE_CANCELLING);
  d.cancelled("a");
  CHECK(d.state.n.state == v1::RUN_STATE_FAILED);
  CHECK(d.state.error()->code() == "BP_DEADLINE_EXCEEDED");
}
