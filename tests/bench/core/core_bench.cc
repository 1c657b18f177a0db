// bench_core: what one event costs in the pure core (apply, next_of, encode_event), on runs of six
// SHARED stages with 256-byte payloads, 512 of them in turn; and what a waiting run costs in memory
// (100,000 runs of the same workflow behind a stage that waits for a signal).
// Prints one JSON object: apply_us, message_us (run_attempt_message), snapshot_us, decode_us,
// waiting_run_bytes.
#include <malloc.h>

#include <chrono>
#include <cstdio>

#include "engine/core/core.h"

using namespace bp;
using namespace bp::core;

namespace {

constexpr int kStages = 6;
constexpr uint64_t kTogether = 512;
constexpr uint64_t kRounds = 60;
constexpr uint64_t kWaiting = 100'000;

using Clock = std::chrono::steady_clock;
double us_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

v1::WorkflowDefinition line(bool waits) {
  v1::WorkflowDefinition w;
  w.set_name("bench");
  std::string before;
  for (int i = 0; i < kStages; ++i) {
    v1::StageDefinition* d = w.add_stages();
    d->set_name("step" + std::to_string(i));
    if (waits && i == 0) {
      d->set_wait_signal("go");
    } else {
      d->set_plugin("noop");
      d->set_isolation(v1::ISOLATION_SHARED);
      v1::Binding& in = (*d->mutable_inputs())["in"];
      if (i == 0 || waits) {
        in.set_run_input("in");
      } else {
        in.set_output(before + ".out");
      }
    }
    if (i > 0) d->add_after(before);
    before = d->name();
  }
  return w;
}

v1::Event stamped() {
  v1::Event e;
  e.set_core_version(kCoreVersion);
  e.set_wall_ms(1'790'000'000'000);
  e.set_boot_ms(1'000'000);
  e.set_may_dispatch(true);
  return e;
}

v1::Event submitted(uint64_t number, const Workflow& w) {
  v1::Event e = stamped();
  auto* s = e.mutable_submitted();
  s->set_run_number(number);
  s->set_run_id("r" + std::to_string(number) + "-abc123");
  s->set_name("run-" + std::to_string(number));
  s->set_incarnation(1);
  s->set_boot_id("0a9c1d0e-2f3b-4c5d-8e7f-0123456789ab");
  s->set_workflow_hash(w.hash());
  s->set_idempotency_key("key-" + std::to_string(number));
  (*s->mutable_inputs())["in"] = std::string(256, 'x');
  return e;
}

v1::Event succeeded(const RunState& run, StageIndex stage) {
  v1::Event e = stamped();
  auto* a = e.mutable_ended();
  const StageInstance& s = run.stages[stage];
  a->set_stage(run.stage_name(s.key));
  a->mutable_epoch()->set_incarnation(s.epoch.incarnation);
  a->mutable_epoch()->set_counter(s.epoch.counter);
  a->set_succeeded(true);
  (*a->mutable_outputs())["out"] = std::string(256, 'y');
  return e;
}

struct Sums {
  double us = 0, message_us = 0;
  uint64_t events = 0, messages = 0, bytes = 0;
};

// Feeds one event to each run; only what the core does is timed.
void feed(std::vector<RunState>& runs, std::vector<v1::Event>& events, Workflows& all, Sums& sums) {
  const auto begin = Clock::now();
  for (size_t i = 0; i < runs.size(); ++i) {
    Outcome out = apply(runs[i], std::move(events[i]), all);
    if (!out.changed) std::abort();
    sums.bytes += encode_event(out.record).size() + static_cast<uint64_t>(next_of(runs[i]).actor);
  }
  sums.us += us_since(begin);
  sums.events += runs.size();
}

void make_messages(const std::vector<RunState>& runs, StageIndex stage, Sums& sums) {
  const auto begin = Clock::now();
  for (const RunState& run : runs)
    sums.bytes += run_attempt_message(run, {stage, 0}).inputs().size();
  sums.message_us += us_since(begin);
  sums.messages += runs.size();
}

Sums run_all(Workflows& all, const Workflow& w) {
  Sums sums;
  for (uint64_t round = 0; round < kRounds; ++round) {
    std::vector<RunState> runs(kTogether);
    std::vector<v1::Event> events;
    for (uint64_t i = 0; i < kTogether; ++i) events.push_back(submitted(round * kTogether + i, w));
    feed(runs, events, all, sums);
    for (StageIndex stage = 0; stage < kStages; ++stage) {
      make_messages(runs, stage, sums);
      for (uint64_t i = 0; i < kTogether; ++i) events[i] = succeeded(runs[i], stage);
      feed(runs, events, all, sums);
    }
    if (runs[0].n.state != v1::RUN_STATE_SUCCEEDED) std::abort();
  }
  return sums;
}

}  // namespace

int main() {
  Workflows all;
  const Workflow::Ptr quick = all.add(line(false)).value();
  const Workflow::Ptr slow = all.add(line(true)).value();
  run_all(all, *quick);  // warm
  const Sums sums = run_all(all, *quick);
  const double apply_cost = sums.us / static_cast<double>(sums.events);
  const double message_cost = sums.message_us / static_cast<double>(sums.messages);

  std::vector<RunState> waiting;
  waiting.reserve(kWaiting);
  malloc_trim(0);
  const auto before = mallinfo2();
  for (uint64_t i = 0; i < kWaiting; ++i) {
    RunState run;
    if (!apply(run, submitted(i, *slow), all).changed) std::abort();
    waiting.push_back(std::move(run));
  }
  const auto after = mallinfo2();
  const double run_bytes =
      static_cast<double>(after.uordblks - before.uordblks) / static_cast<double>(kWaiting) +
      sizeof(RunState);

  std::vector<std::string> rows;
  auto begin = Clock::now();
  for (uint64_t i = 0; i < kWaiting; i += 10) rows.push_back(encode_run(waiting[i]));
  const double snapshot_cost = us_since(begin) / static_cast<double>(rows.size());
  begin = Clock::now();
  for (const std::string& row : rows) {
    if (!decode_run(row, all).ok()) std::abort();
  }
  const double decode_cost = us_since(begin) / static_cast<double>(rows.size());
  std::printf("{\"apply_us\": %.3f, \"message_us\": %.3f, \"snapshot_us\": %.3f, \"decode_us\": %.3f, "
              "\"waiting_run_bytes\": %.0f}\n",
              apply_cost, message_cost, snapshot_cost, decode_cost, run_bytes);
  return 0;
}
