// Histories that core version 1 wrote: they must lead to the same state for ever. The file holds
// frames (length in 4 bytes, little endian, then the bytes): "run", its events, then "end" and a
// summary of the state that version 1 had arrived at.
#include <algorithm>
#include <cstring>
#include <fstream>

#include "tests/unit/core/core_feeder.h"

using namespace bp;
using namespace bp::core;

namespace {

std::vector<std::string> frames_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in);
  std::vector<std::string> frames;
  uint32_t size = 0;
  while (in.read(reinterpret_cast<char*>(&size), sizeof size)) {
    std::string bytes(size, '\0');
    REQUIRE(in.read(bytes.data(), size));
    frames.push_back(std::move(bytes));
  }
  return frames;
}

std::string text(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& p : parts) all += (all.empty() ? "" : " ") + p;
  return all;
}

std::string summary(const RunState& run) {
  auto s = [](auto number) { return std::to_string(number); };
  const RunState::Numbers& n = run.n;
  std::string all = text({s(int(n.state)), s(n.epoch_counter), s(n.run_seq), s(n.generation),
                          s(n.rewinds_total), s(run.rarely().survivors.size())});
  for (const StageInstance& i : run.stages) {
    all += "\n" + text({run.stage_name(i.key), s(int(i.state)), s(int(i.mode)), s(i.attempt),
                        s(i.epoch.counter), s(i.failures)}) +
           " " + i.handle() + " " + s(i.rarely().last_late_counter);
  }
  std::vector<std::string> timers;
  std::vector<Timer> sorted = run.timers;
  std::sort(sorted.begin(), sorted.end(), [&](const Timer& a, const Timer& b) {
    return std::pair(run.stage_name(a.key), a.kind) < std::pair(run.stage_name(b.key), b.kind);
  });
  for (const Timer& t : sorted) {
    all += "\n" + text({run.stage_name(t.key), s(int(t.kind)), s(t.epoch_counter),
                        s(t.due_boot_ms)});
  }
  return all;
}

}  // namespace

TEST_CASE("core: what version 1 journalled leads to the state that version 1 arrived at") {
  const char* other = std::getenv("BP_V1_JOURNALS");
  const auto frames =
      frames_of(other ? other : BP_SOURCE_DIR "/tests/unit/core/v1_journals.bin");
  Workflows workflows;
  RunState run;
  size_t runs = 0, events = 0;
  for (const std::string& frame : frames) {
    if (frame == "run") {
      run = RunState();
    } else if (frame.starts_with("end")) {
      INFO("run " << runs);
      REQUIRE(summary(run) == frame.substr(3));
      Feeder::sound(run);
      ++runs;
    } else {
      v1::Event e;
      REQUIRE(e.ParseFromString(frame));
      INFO("run " << runs << ", event " << run.n.run_seq + 1 << ": " << e.ShortDebugString());
      REQUIRE(e.core_version() == 1);
      Outcome out = apply(run, e, workflows);
      REQUIRE(out.accepted.ok());
      REQUIRE(out.changed);
      ++events;
    }
  }
  CHECK(runs >= 6);
  CHECK(events >= 300);
}
