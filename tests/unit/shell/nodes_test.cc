// The node registry in a world of virtual time.
#include "engine/shell/nodes.h"

#include <catch2/catch.hpp>
#include <functional>
#include <map>

#include "engine/base/limits.h"
#include "storage/memory_journal.h"

using namespace bp;
using namespace bp::shell;

namespace {

struct FakeTime final : Executor, Clock {
  int64_t now = 5'000;
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
  int64_t wall_ms() const override { return now; }
  int64_t boot_ms() const override { return now; }
  void pass(int64_t ms) {
    const int64_t end = now + ms;
    while (!due.empty() && due.begin()->first.first <= end) {
      now = std::max(now, due.begin()->first.first);
      auto call = std::move(due.begin()->second);
      due.erase(due.begin());
      call();
    }
    now = end;
  }
};

struct FakeWorld final : Random, Transport, Processes, StageLogs {
  FakeTime time;
  storage::MemoryJournal store;
  World world{time, time, *this, store, *this, *this, *this};
  std::map<std::string, std::string> keys;
  std::vector<std::pair<std::string, v1::NodeMessage>> sent;
  std::vector<std::string> notices;
  bool heard = true;
  int changes = 0;
  NodeRegistry nodes{
      world,
      {[this](const std::string& run, const v1::NodeNotice& n) {
         notices.push_back(run + " " + n.node_id() +
                           (n.node_up()     ? " up"
                            : n.node_lost() ? " lost"
                                            : " ended " + n.process_ended().process_key()));
         return heard;
       },
       [](const std::string&) {
         v1::Epoch e;
         e.set_counter(9);
         return e;
       },
       [this](const std::string&) { ++changes; }}};

  std::string id(std::string_view p) override { return std::string(p); }
  void send(Channel, const std::string& to, std::string_view bytes) override {
    v1::NodeMessage m;
    REQUIRE(m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
    sent.emplace_back(to, std::move(m));
  }
  void allow_node(const std::string& key, const std::string& user) override { keys[key] = user; }
  void forbid_node(const std::string& key) override { keys.erase(key); }
  Result<ProcessId> spawn_host(const HostSpec&) override { return Error{}; }
  std::optional<ProcessId> find_host(const std::string&) override { return {}; }
  bool alive(const ProcessId&) override { return false; }
  void kill(const ProcessId&) override {}
  void watch(const ProcessId&, std::function<void(std::string)>) override {}
  void append(const std::string&, const std::string&, const std::string&) override {}
  std::string read(const std::string&, const std::string&, uint64_t, size_t) override { return {}; }

  void hello(const std::string& from = "c1", const std::string& node = "n1-0") {
    v1::NodeMessage m;
    m.mutable_hello()->set_node_id(node);
    m.mutable_hello()->set_run_id("r");
    nodes.on_message({from, "node:r/n1-0"}, m);
  }
  void beat(const std::string& from = "c1") {
    v1::NodeMessage m;
    m.mutable_beat();
    nodes.on_message({from, "node:r/n1-0"}, m);
  }
  void reply(uint64_t call, const std::string& user = "node:r/n1-0") {
    v1::NodeMessage m;
    m.mutable_reply()->set_call_id(call);
    m.mutable_reply()->mutable_list();
    nodes.on_message({"c1", user}, m);
  }
  size_t commands() const {
    return static_cast<size_t>(std::count_if(sent.begin(), sent.end(),
                                             [](const auto& s) { return s.second.has_command(); }));
  }
};

}  // namespace

TEST_CASE("a call waits for its node, goes out when it connects, and again when it reconnects") {
  FakeWorld w;
  w.nodes.admit("r", "n1-0", "KEY", false);
  CHECK(w.keys["KEY"] == "node:r/n1-0");
  std::vector<v1::NodeCommandReply> replies;
  auto done = [&](v1::NodeCommandReply r) { replies.push_back(std::move(r)); };
  w.nodes.call("h/1", "r", "n1-0", {}, 10'000, done);
  w.nodes.call("h/1", "r", "n1-0", {}, 10'000, done);  // said again by its host
  CHECK(w.sent.empty());
  w.hello();
  REQUIRE(w.sent.size() == 2);
  CHECK(w.sent[0].second.hello_ack().epoch().counter() == 9);  // first the greeting
  const auto command = w.sent[1].second.command();
  CHECK(command.run_id() == "r");
  CHECK(w.notices == std::vector<std::string>{"r n1-0 up"});
  w.hello();  // over the same connection: nothing was lost
  CHECK(w.commands() == 1);
  w.beat("c2");
  CHECK(w.commands() == 2);
  w.reply(command.call_id(), "node:other/n1-0");
  CHECK(replies.empty());
  w.reply(command.call_id());
  w.reply(command.call_id());
  CHECK(replies.size() == 1);
}

TEST_CASE("a call ends at its deadline and says what was wrong with the node") {
  FakeWorld w;
  w.nodes.admit("r", "n1-0", "KEY", false);
  std::string message;
  auto done = [&](v1::NodeCommandReply r) {
    message = r.error().code() + " " + r.error().message();
  };
  w.nodes.call("h/1", "r", "n1-0", {}, 700, done);
  w.time.pass(699);
  CHECK(message.empty());
  w.time.pass(1);
  CHECK(message.find("BP_DEADLINE_EXCEEDED") == 0);
  CHECK(message.find("n1-0") != std::string::npos);
  CHECK(message.find("never connected") != std::string::npos);
  w.nodes.call("h/2", "r", "n1-9", {}, 1, done);
  w.time.pass(1);
  CHECK(message.find("not registered") != std::string::npos);
}

TEST_CASE("a node is lost after three missed beats and comes back with its next word") {
  FakeWorld w;
  w.nodes.admit("r", "n1-0", "KEY", false);
  w.time.pass(60'000);
  CHECK(w.notices.empty());  // a new node may take its time
  w.hello();
  for (int i = 0; i < 10; ++i) {
    w.time.pass(limits::kNodeBeatMs);
    w.beat();
  }
  CHECK(w.notices.size() == 1);
  w.time.pass(limits::kNodeLostMs + 600);
  REQUIRE(w.notices.size() == 2);
  CHECK(w.notices[1] == "r n1-0 lost");
  w.beat();
  CHECK(w.notices.back() == "r n1-0 up");
  CHECK(w.nodes.nodes_of("r").at(0)->state == NodeState::kUp);
}

TEST_CASE("a node on record that does not come back after a start is lost") {
  FakeWorld w;
  w.nodes.admit("r", "n1-0", "KEY", true);
  w.time.pass(NodeRegistry::kReturnMs + 1'000);
  CHECK(w.notices == std::vector<std::string>{"r n1-0 lost"});
}

TEST_CASE("a hello for another node is refused, and an unheard notice is not acknowledged") {
  FakeWorld w;
  w.nodes.admit("r", "n1-0", "KEY", false);
  w.hello("c1", "n1-1");
  REQUIRE(!w.sent.empty());
  CHECK(w.sent.back().second.hello_ack().refused().code() == "BP_UNAUTHORIZED");
  v1::NodeMessage ended;
  ended.mutable_process_ended()->set_process_key("rank-3");
  w.sent.clear();
  w.heard = false;
  w.nodes.on_message({"c1", "node:r/n1-0"}, ended);
  CHECK(w.sent.empty());
  w.heard = true;
  w.nodes.on_message({"c1", "node:r/n1-0"}, ended);
  REQUIRE(w.sent.size() == 1);
  CHECK(w.sent[0].second.beat_ack().ended_keys(0) == "rank-3");
  w.nodes.forget_run("r");
  CHECK(w.keys.empty());
  w.beat();
  CHECK(w.sent.size() == 1);
}

TEST_CASE("what a reply tells of processes is known before the next beat") {
  FakeWorld w;
  w.nodes.admit("r", "n1-0", "KEY", false);
  w.hello();
  auto process = [](const char* key, int32_t pid) {
    v1::ProcessStatus p;
    p.set_process_key(key);
    p.mutable_identity()->set_pid(pid);
    return p;
  };
  auto answer = [&](const std::function<void(v1::NodeCommandReply*)>& fill) {
    w.nodes.call("h/1", "r", "n1-0", {}, 1'000, [](v1::NodeCommandReply) {});
    v1::NodeMessage m;
    m.mutable_reply()->set_call_id(w.sent.back().second.command().call_id());
    fill(m.mutable_reply());
    w.nodes.on_message({"c1", "node:r/n1-0"}, m);
    return w.nodes.nodes_of("r").at(0)->processes;
  };
  CHECK(answer([&](auto* r) { *r->mutable_started() = process("head", 7); }).size() == 1);
  const int before = w.changes;
  auto known = answer([&](auto* r) { *r->mutable_started() = process("head", 8); });
  CHECK(known.at("head").identity().pid() == 8);
  CHECK(w.changes == before + 1);
  known = answer([&](auto* r) { *r->mutable_list()->add_processes() = process("rank-1", 9); });
  CHECK(known.size() == 1);
  CHECK(known.count("rank-1") == 1);
  v1::NodeMessage beat;  // the same key, another process: a change as well
  *beat.mutable_beat()->add_processes() = process("rank-1", 10);
  const int changes = w.changes;
  w.nodes.on_message({"c1", "node:r/n1-0"}, beat);
  w.nodes.on_message({"c1", "node:r/n1-0"}, beat);
  CHECK(w.changes == changes + 1);
}
