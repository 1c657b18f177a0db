#include "tests/integration/node/node_harness.h"

#include <signal.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "engine/base/files.h"
#include "engine/node/process_table.h"

namespace bp::test {
namespace fs = std::filesystem;
namespace {

// An agent claims its address: neither tests that run at the same time nor agents of one test share one.
std::string unused_address() {
  static unsigned agents = 0;
  const auto pid = static_cast<unsigned>(::getpid());
  return "127." + std::to_string(64 + pid / 256 % 64) + "." + std::to_string(pid % 256) + "." +
         std::to_string(1 + agents++ % 250);
}

}  // namespace

v1::Segment segment(const std::string& name, uint64_t size_bytes, bool drop_with_epoch) {
  v1::Segment s;
  s.set_name(name);
  s.set_size_bytes(size_bytes);
  s.set_drop_with_epoch(drop_with_epoch);
  return s;
}

NodeHarness::NodeHarness()
    : address(unused_address()), work_dir(dir / "node"), cache_dir(dir / "cache"), bin_dir(dir / "bin") {
  fs::create_directories(work_dir);
  fs::create_directories(bin_dir);
  for (const char* name : {"/bp-head", "/bp-rank"})
    fs::create_symlink(BP_BUILD_DIR "/tests/bp_fake_process", bin_dir + name);
  context_ = std::move(bus::Context::start()).value();
  node_keys_ = std::move(bus::load_or_make_key_pair(work_dir + "/node.key")).value();
  listen();
}

NodeHarness::~NodeHarness() {
  kill_agent();
  for (const auto& p : node::processes_marked(work_dir)) {
    (void)process_signal(p, SIGKILL);
    (void)process_wait_gone(p, Deadline::in_ms(5'000));
  }
  router_.reset();
}

void NodeHarness::listen() {
  router_.reset();
  peer_.clear();
  bus::ListenOptions o;
  o.endpoint = "tcp://127.0.0.1:0";
  o.keys = bus::make_key_pair();
  const std::string allowed = node_keys_.public_key, server = o.keys.public_key;
  o.authorize = [allowed](std::string_view key) { return key == allowed ? "node:n1-0" : ""; };
  auto bound = bus::Router::bind(*context_, std::move(o));
  REQUIRE(bound.ok());
  router_ = std::move(*bound);
  REQUIRE(
      write_file_atomic(dir / "node_endpoint", router_->endpoint() + "\n" + server + "\n").ok());
}

ProcessId NodeHarness::spawn_agent(const std::string& log) {
  SpawnOptions o;
  o.program = BP_BUILD_DIR "/bin/bp-node";
  o.args = {
      "--node-id",   "n1-0",    "--run-id",  "run-1",       "--work-dir",     work_dir,
      "--cache-dir", cache_dir, "--address", address, "--daemon-file",  dir / "node_endpoint",
      "--bin-dir",   bin_dir,   "--cores",   "2",           "--memory-bytes", "1000000000"};
  o.log_file = dir / log;
  o.die_with_parent = true;  // a test that aborts leaves no agent behind
  auto started = process_spawn(o);
  REQUIRE(started.ok());
  return *started;
}

void NodeHarness::start_agent() { agent = spawn_agent("agent.log"); }

void NodeHarness::kill_agent() {
  (void)process_signal(agent, SIGKILL);
  (void)process_wait_gone(agent, Deadline::in_ms(5'000));
}

std::optional<v1::NodeMessage> NodeHarness::receive(Deadline deadline) {
  auto in = router_->recv(deadline);
  if (!in.ok()) return std::nullopt;
  auto m = bus::parse<v1::NodeMessage>(in->payload);
  REQUIRE(m.ok());
  REQUIRE(in->peer.user == "node:n1-0");
  peer_ = in->peer.routing_id;
  v1::NodeMessage answer;
  if (m->has_hello()) {
    answer.mutable_hello_ack();
  } else if (m->has_beat()) {
    last_beat = m->beat();
    answer.mutable_beat_ack();
  } else if (m->has_process_ended()) {
    ended.push_back(m->process_ended());
    if (acknowledge) answer.mutable_beat_ack()->add_ended_keys(m->process_ended().process_key());
  }
  if (answer.body_case() != v1::NodeMessage::BODY_NOT_SET)
    (void)router_->send(peer_, answer.SerializeAsString());
  return *m;
}

v1::NodeHello NodeHarness::wait_hello() {
  const Deadline deadline = Deadline::in_ms(15'000);
  while (!deadline.passed()) {
    auto m = receive(Deadline::in_ms(200));
    if (m && m->has_hello()) return m->hello();
  }
  FAIL("no greeting of the node; its log:\n" << read_file(dir / "agent.log", 1 << 20).value());
  return {};
}

uint64_t NodeHarness::post(v1::NodeCommand command, uint64_t epoch) {
  if (peer_.empty()) wait_hello();
  command.set_call_id(next_call_++);
  if (command.run_id().empty()) command.set_run_id("run-1");
  if (epoch) {
    command.mutable_epoch()->set_incarnation(1);
    command.mutable_epoch()->set_counter(epoch);
  }
  v1::NodeMessage m;
  *m.mutable_command() = command;
  (void)router_->send(peer_, m.SerializeAsString());
  return command.call_id();
}

std::vector<ProcessId> NodeHarness::marked() const { return node::processes_marked(work_dir); }

v1::NodeCommandReply NodeHarness::call(v1::NodeCommand command, uint64_t epoch, int64_t wait_ms) {
  const Deadline deadline = Deadline::in_ms(wait_ms);
  uint64_t id = post(command, epoch);
  std::string asked = peer_;
  while (!deadline.passed()) {
    auto in = receive(Deadline::in_ms(200));
    if (in && in->has_reply() && in->reply().call_id() == id) return in->reply();
    if (peer_ == asked) continue;
    // The node has dialled anew, as it does when this test was silent for long: ask there, like a
    // daemon.
    id = post(command, epoch);
    asked = peer_;
  }
  FAIL("no reply; the agent's log:\n" << read_file(dir / "agent.log", 1 << 20).value());
  return {};
}

v1::NodeCommandReply NodeHarness::start(const std::string& key, uint64_t epoch,
                                        const std::string& config,
                                        const std::vector<v1::Segment>& segments, bool leased) {
  v1::NodeCommand c;
  auto* s = c.mutable_start();
  s->set_process_key(key);
  s->set_role(key == "head" ? v1::PROCESS_ROLE_HEAD : v1::PROCESS_ROLE_RANK);
  s->set_program(key == "head" ? "bp-head" : "bp-rank");
  s->set_config(config);
  s->set_leased(leased);
  (*s->mutable_labels())["tp_rank"] = "0";
  for (const auto& wanted : segments) *s->add_segments() = wanted;
  return call(c, epoch);
}

v1::NodeCommandReply NodeHarness::stop(const std::string& key, uint64_t epoch, int64_t grace_ms) {
  v1::NodeCommand c;
  c.mutable_stop()->set_process_key(key);
  c.mutable_stop()->set_grace_ms(grace_ms);
  return call(c, epoch);
}

std::vector<v1::ProcessStatus> NodeHarness::processes(uint64_t epoch) {
  v1::NodeCommand c;
  c.mutable_list();
  auto r = call(c, epoch);
  return {r.list().processes().begin(), r.list().processes().end()};
}

v1::ProcessEnded NodeHarness::wait_ended(const std::string& key, int64_t wait_ms) {
  const Deadline deadline = Deadline::in_ms(wait_ms);
  for (;;) {
    for (const auto& e : ended) {
      if (e.process_key() == key) return e;
    }
    if (deadline.passed()) break;
    receive(Deadline::in_ms(100));
  }
  FAIL("the end of " << key << " was not told");
  return {};
}

std::string NodeHarness::log_of(const std::string& key) {
  v1::NodeCommand c;
  c.mutable_read_log()->set_process_key(key);
  c.mutable_read_log()->set_max_bytes(1 << 20);
  return call(c, 0).log().data();
}

std::string NodeHarness::wait_log(const std::string& key, const std::string& text) {
  const Deadline deadline = Deadline::in_ms(10'000);
  for (;;) {
    std::string log = log_of(key);
    if (log.find(text) != std::string::npos || deadline.passed()) return log;
    pump(20);
  }
}

v1::NodeCommandReply NodeHarness::fetch(const v1::FetchObjects& wanted, uint64_t epoch) {
  v1::NodeCommand c;
  *c.mutable_fetch() = wanted;
  return call(c, epoch);
}

v1::FetchStatus NodeHarness::wait_fetch(const std::string& key, int64_t wait_ms) {
  const Deadline deadline = Deadline::in_ms(wait_ms);
  v1::NodeCommand c;
  c.mutable_fetch_query()->set_fetch_key(key);
  for (;;) {
    auto r = call(c, 0);
    if (r.has_error() || r.fetch().done() || r.fetch().has_error() || deadline.passed())
      return r.fetch();
    pump(20);
  }
}

void NodeHarness::send_raw(const std::string& payload) { (void)router_->send(peer_, payload); }

void NodeHarness::pump(int64_t ms) {
  const Deadline deadline = Deadline::in_ms(ms);
  while (!deadline.passed()) receive(deadline);
}

}  // namespace bp::test
