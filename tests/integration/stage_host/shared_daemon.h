// The daemon's part towards one shared host, for tests and benchmarks: everything in the caller's thread.
#pragma once
#include <signal.h>
#include <sys/wait.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "bp/v1/stage.pb.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"

namespace bp::test {

class SharedDaemon {
 public:
  SharedDaemon(const std::string& host_program, const std::string& plugin, uint32_t slots,
               std::vector<std::string> args = {})
      : dir_("/tmp/" + random_id("bpsd")) {
    BP_CHECK(make_dirs(dir_).ok());
    context_ = std::move(*bus::Context::start());
    come_back();
    SpawnOptions o;
    o.program = host_program;
    o.args = {"--shared", "--slots", std::to_string(slots), "--plugin", plugin, "--endpoint", endpoint(),
              "--host-id", "h-1", "--run-dir", dir_, "--log-level", "warn"};
    o.args.insert(o.args.end(), args.begin(), args.end());
    o.log_file = dir_ + "/host.log";
    auto process = process_spawn(o);
    BP_CHECK(process.ok());
    host = *process;
  }
  ~SharedDaemon() {
    (void)process_signal(host, SIGKILL);
    ::waitpid(host.pid, nullptr, 0);
    router_.reset();
    (void)remove_tree(dir_);
  }
  void go_away() { router_.reset(); }
  void come_back() {
    auto router = bus::Router::bind(*context_, bus::ListenOptions{endpoint(), {}, {}, 0});
    BP_CHECK(router.ok());
    router_ = std::move(*router);
  }
  static v1::AttemptRef ref(uint64_t counter) {
    v1::AttemptRef r;
    r.set_run_id("r" + std::to_string(counter) + "-abcdef");
    r.set_stage("probe");
    r.set_attempt(1);
    r.mutable_epoch()->set_incarnation(1);
    r.mutable_epoch()->set_counter(counter);
    return r;
  }
  static void add_run(v1::StageBatch& batch, uint64_t counter, const std::map<std::string, std::string>& options,
                      const std::string& name = "world") {
    auto* m = batch.add_messages();
    *m->mutable_ref() = ref(counter);
    auto* a = m->mutable_run();
    a->set_mode(v1::ATTEMPT_MODE_APPLY);
    a->set_effect_key(m->ref().run_id() + "/probe/0/1");
    (*a->mutable_inputs())["name"] = name;
    for (const auto& [k, v] : options) (*a->mutable_options())[k] = v;
  }
  void send(const v1::StageBatch& batch) {
    auto until = Deadline::in_ms(5000);
    while (!router_->send("h-1", batch.SerializeAsString()).ok() && !until.passed()) pump([] { return false; }, 5);
  }
  void run(uint64_t counter, const std::map<std::string, std::string>& options) {
    v1::StageBatch batch;
    add_run(batch, counter, options);
    send(batch);
  }
  /// Takes in what the host says until `enough`; false: not within limit_ms.
  bool pump(const std::function<bool()>& enough, int64_t limit_ms = 10'000) {
    auto until = Deadline::in_ms(limit_ms);
    while (!enough()) {
      if (until.passed()) return false;
      auto in = router_->recv(Deadline::in_ms(std::min<int64_t>(until.left_ms(), 20)));
      if (in.ok()) take(in->payload);
    }
    return true;
  }
  void take(const std::string& payload) {
    auto batch = bus::parse<v1::StageBatch>(payload);
    BP_CHECK(batch.ok());
    ++batches;
    v1::StageBatch answers;
    for (const auto& m : batch->messages()) {
      const uint64_t counter = m.ref().epoch().counter();
      if (m.has_hello()) {
        hellos.push_back(m.hello());
        (*answers.add_messages()->mutable_hello_ack()->mutable_options())["common"] = "of-all";
      } else if (m.has_result()) {
        ++results[counter];
        last[counter] = m.result();
        if (acknowledge) answers.add_result_acks(m.sequence());
      } else if (m.has_beat()) {
        ++beats[counter];
      }
    }
    if (answers.ByteSizeLong() > 0) (void)router_->send("h-1", answers.SerializeAsString());
  }
  std::string endpoint() const { return "ipc://" + dir_ + "/stage.sock"; }

  ProcessId host;
  bool acknowledge = true;
  uint64_t batches = 0;
  std::vector<v1::HostHello> hellos;
  std::map<uint64_t, int> results, beats;       // how many, by epoch counter
  std::map<uint64_t, v1::AttemptResult> last;

 private:
  std::string dir_;
  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::Router> router_;
};

}  // namespace bp::test
