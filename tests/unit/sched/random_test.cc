// Random histories: what must hold whatever happens, and traces of them.
#include "runtime/sched/trace.h"
#include "tests/unit/sched/world.h"

namespace bp::rt {
namespace {

struct Story {
  std::mt19937 random;
  std::map<uint64_t, SequenceRequest> requests;
  uint64_t next_id = 1;

  explicit Story(uint32_t seed) : random(seed) {}
  uint32_t pick(uint32_t n) { return static_cast<uint32_t>(random() % n); }

  SchedulerOptions options() {
    SchedulerOptions o = small_options();
    o.kv_blocks = 15 + pick(20);
    o.max_batch_tokens = 1 + pick(20);
    o.mixed_batch_tokens = 1 + pick(20);
    o.max_sequences = 1 + pick(6);
    o.stages = 1 + pick(4);
    o.attention_parity_tokens = pick(2) * 10;
    o.prefix_sharing = pick(4) != 0;
    o.patience_ns = pick(2) ? 30'000'000 : 30'000'000'000;
    return o;
  }
  SequenceRequest one() {
    SequenceRequest r = request(next_id++, 1 + pick(40), 1 + pick(20));
    if (pick(2)) {  // a beginning that others have too
      const SequenceRequest common = request(1 + pick(3), 40, 1);
      std::copy_n(common.prompt.begin(), pick(static_cast<uint32_t>(r.prompt.size() + 1)), r.prompt.begin());
    }
    if (pick(2)) r.stop_tokens = {pick(50)};
    r.priority = static_cast<int32_t>(pick(3)) - 1;
    r.tenant = std::string(1, static_cast<char>('a' + pick(3)));
    return r;
  }
  void arrive(World& w) {
    std::vector<SequenceRequest> all{one()};
    if (pick(4) == 0) {
      for (uint32_t n = 1 + pick(3); n > 0; --n) {
        SequenceRequest next = all[0];
        next.id = next_id++;
        next.same_prompt_as = all[0].id;
        all.push_back(next);
      }
    }
    if (pick(6) == 0)
      for (auto& r : all) r.deadline_ns = w.now_ns + pick(100) * 1'000'000;
    if (!w.scheduler->arrive(all, w.now_ns).ok()) return;
    for (const auto& r : all) requests[r.id] = r;
  }
  void cancel(World& w) {
    if (next_id == 1 || pick(3)) return;
    const uint64_t id = 1 + pick(static_cast<uint32_t>(next_id - 1));
    w.scheduler->cancel(id);
    if (!w.ended.count(id)) w.cancelled.insert(id);
  }
  void act(World& w) {
    w.now_ns += pick(3) * 1'000'000;
    for (uint64_t id : w.scheduler->expire(w.now_ns)) w.cancelled.insert(id);
    switch (pick(8)) {
      case 0: return arrive(w);
      case 1: return cancel(w);
      case 2:
        if (pick(20) == 0) w.lose_group();
        if (pick(4) == 0) w.forget_results(pick(5));
        return;
      case 3:
      case 4:
      case 5: w.send(); return;
      default: w.finish_one();
    }
  }
  void check_end(World& w) {
    CHECK(w.scheduler->running() == 0);
    CHECK(w.scheduler->waiting() == 0);
    CHECK(w.scheduler->waiting_tokens() == 0);
    CHECK(w.scheduler->free_blocks() == w.options.kv_blocks);
    for (const auto& [id, r] : requests) {
      std::vector<uint32_t> want = expected_tokens(r);
      if (w.cancelled.count(id))
        want.resize(std::min(want.size(), w.tokens[id].size()));
      else
        CHECK(w.ended.count(id) == 1);
      CHECK(w.tokens[id] == want);
    }
  }
};

}  // namespace

TEST_CASE("random histories: nothing leaks, everybody ends, tokens do not depend on what happened",
          "[sched]") {
  SchedulerCounters all;
  for (uint32_t seed = 0; seed < 600; ++seed) {
    INFO("seed " << seed);
    Story story(seed);
    World w(story.options());
    for (int i = 0; i < 200; ++i) story.act(w);
    w.run_dry();
    story.check_end(w);
    all.preemptions += w.scheduler->counters().preemptions;
    all.shared_tokens += w.scheduler->counters().shared_tokens;
    all.copied_blocks += w.scheduler->counters().copied_blocks;
    all.expired += w.scheduler->counters().expired;
  }
  // The stories do tell of what they are about.
  CHECK(all.preemptions > 500);
  CHECK(all.shared_tokens > 5000);
  CHECK(all.copied_blocks > 500);
  CHECK(all.expired > 100);
}

TEST_CASE("under steady load everybody is served in time, and no block is lost", "[sched]") {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    INFO("seed " << seed);
    Story story(seed);
    SchedulerOptions o = small_options();
    o.kv_blocks = 15 + story.pick(30);
    o.stages = 1 + story.pick(3);
    o.patience_ns = 50'000'000;
    World w(o);
    std::map<uint64_t, int64_t> arrived;
    int64_t longest = 0;
    for (int i = 0; i < 3000; ++i) {
      while (w.scheduler->waiting() < 8) {
        SequenceRequest r = story.one();
        arrived[r.id] = w.now_ns;
        REQUIRE(w.arrive(r).ok());
      }
      while (w.send()) {
      }
      const size_t before = w.order.size();
      w.finish_one();
      for (size_t k = before; k < w.order.size(); ++k)
        longest = std::max(longest, w.now_ns - arrived[w.order[k]]);
    }
    for (const auto& [id, at] : arrived)
      if (!w.ended.count(id)) longest = std::max(longest, w.now_ns - at);
    CHECK(longest < 1'000'000'000);  // 1000 steps of 1 ms; some 12 sequences of 40 tokens are ahead at most
    w.run_dry();
    CHECK(w.scheduler->free_blocks() == o.kv_blocks);
  }
}

TEST_CASE("a trace replays bit for bit, and a changed one does not", "[sched]") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    INFO("seed " << seed);
    Story story(seed);
    const SchedulerOptions o = story.options();
    std::string trace;
    World w(o, make_recorded_scheduler(o, [&](std::string_view bytes) {
              trace.append(bytes);
              return true;
            }));
    for (int i = 0; i < 200; ++i) story.act(w);
    w.run_dry();
    story.check_end(w);
    auto report = replay_trace(trace);
    REQUIRE(report.ok());
    CHECK(report->steps >= w.steps.size());
    CHECK(!report->cut);
    auto cut = replay_trace(std::string_view(trace).substr(0, trace.size() - 1));
    REQUIRE(cut.ok());
    CHECK(cut->cut);
    // Some byte in the middle is another: the replay sees it, unless it is in what no decision rests on.
    int seen = 0;
    for (size_t i = 1; i < 10; ++i) {
      std::string bent = trace;
      bent[trace.size() * i / 10] ^= 1;
      seen += !replay_trace(bent).ok();
    }
    CHECK(seen >= 3);
  }
  CHECK(replay_trace("\x05 garbage").error().code == ErrorCode::kCorruptData);
  CHECK(replay_trace(std::string_view("\x02\x52\x00 no settings", 15)).error().code == ErrorCode::kCorruptData);
}

TEST_CASE("a trace ends where its writer has enough, and is whole up to there", "[sched]") {
  SchedulerOptions o = small_options();
  std::string trace;
  World w(o, make_recorded_scheduler(o, [&](std::string_view bytes) {
            if (trace.size() + bytes.size() > 600) return false;
            trace.append(bytes);
            return true;
          }));
  REQUIRE(w.arrive(request(1, 30, 20)).ok());
  w.run_dry();
  auto report = replay_trace(trace);
  REQUIRE(report.ok());
  CHECK(report->steps > 1);
  CHECK(report->steps < w.steps.size());
}

}  // namespace bp::rt
