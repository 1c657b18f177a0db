// A conductor in a world of virtual time, over the journal in memory, and the API on top of it.
// Stages never run here: what is tested is what is decided and kept.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/shell/engine_api.h"
#include "storage/memory_journal.h"

namespace bp::shell {

struct VirtualTime final : Executor, Clock {
  int64_t now = 5'000;
  int64_t wall = 1'800'000'000'000;  // 2027-01-15 08:00 UTC
  TimerId next = 1;
  std::map<std::pair<int64_t, TimerId>, std::function<void()>> due;
  void post(std::function<void()> call) override { after(0, std::move(call)); }
  TimerId after(int64_t ms, std::function<void()> call) override {
    due[{now + ms, next}] = std::move(call);
    return next++;
  }
  void cancel(TimerId id) override {
    std::erase_if(due, [&](const auto& d) { return d.first.second == id; });
  }
  int64_t wall_ms() const override { return wall; }
  int64_t boot_ms() const override { return now; }
  void pass(int64_t ms) {
    const int64_t end = now + ms;
    while (!due.empty() && due.begin()->first.first <= end) {
      const int64_t at = std::max(now, due.begin()->first.first);
      wall += at - now;
      now = at;
      auto call = std::move(due.begin()->second);
      due.erase(due.begin());
      call();
    }
    wall += end - now;
    now = end;
  }
};

struct Nothing final : Random, Transport, Processes, StageLogs {
  uint64_t ids = 0;
  std::string id(std::string_view prefix) override {
    return std::string(prefix) + "-" + std::to_string(++ids);
  }
  void send(Channel, const std::string&, std::string_view) override {}
  void allow_node(const std::string&, const std::string&) override {}
  void forbid_node(const std::string&) override {}
  Result<ProcessId> spawn_host(const HostSpec&) override {
    return Error{ErrorCode::kUnavailable, "no processes here", {}};
  }
  std::optional<ProcessId> find_host(const std::string&) override { return std::nullopt; }
  bool alive(const ProcessId&) override { return false; }
  void kill(const ProcessId&) override {}
  void watch(const ProcessId&, std::function<void(std::string)>) override {}
  void append(const std::string&, const std::string&, const std::string&) override {}
  std::string read(const std::string&, const std::string&, uint64_t, size_t) override { return {}; }
};

/// One life of the daemon: destroyed and made again over the same journal.
struct Life {
  Life(VirtualTime& time, Nothing& nothing, storage::Journal& journal)
      : time(time),
        world{time, time, nothing, journal, nothing, nothing, nothing},
        conductor(world, conductor_hooks(), "boot-1", nullptr),
        workflows(conductor),
        api(world, conductor, workflows, api_hooks()) {}

  Conductor::Hooks conductor_hooks();
  EngineApi::Hooks api_hooks();
  void load();
  Result<std::string> start(const v1::NewRun& run, const std::string& schedule,
                            const Schedules::Hooks::AddExtra& extra);
  /// Asks and lets time pass until the last reply; all of them.
  std::vector<v1::ClientReply> ask(const v1::ClientRequest& request);
  v1::ClientReply ask_one(const v1::ClientRequest& request);
  /// Feeds the end of the living attempt of `stage`, dispatching it first.
  void finish(const std::string& run_id, const std::string& stage, const std::string& output);

  VirtualTime& time;
  World world;
  Conductor conductor;
  WorkflowRegistry workflows;
  EngineApi api;
  bool paused = false;
  std::vector<std::string> started;
};

/// Stages a -> b -> c, each in a process of its own, never retried.
v1::WorkflowDefinition line(const std::string& name);

}  // namespace bp::shell
