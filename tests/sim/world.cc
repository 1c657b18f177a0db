#include <algorithm>

#include "engine/core/core.h"
#include "engine/shell/conductor.h"
#include "tests/sim/host.h"

namespace bp::sim {

bool Scheduler::step() {
  if (queue_.empty()) return false;
  Due due = queue_.top();
  queue_.pop();
  now = std::max(now, due.at);
  due.call();
  return true;
}

class World::SimClock final : public Clock {
 public:
  explicit SimClock(World& w) : w_(w) {}
  int64_t wall_ms() const override { return 1'700'000'000'000 + w_.time.now; }
  int64_t boot_ms() const override { return w_.time.now; }

 private:
  World& w_;
};

// Calls of a daemon that has crashed are forgotten.
class World::SimExecutor final : public shell::Executor {
 public:
  explicit SimExecutor(World& w) : w_(w) {}
  void post(std::function<void()> call) override {
    w_.time.in(0, [alive = alive_, call = std::move(call)] {
      if (*alive) call();
    });
  }
  TimerId after(int64_t ms, std::function<void()> call) override {
    const TimerId id = next_++;
    armed_.insert(id);
    w_.time.in(ms, [this, alive = alive_, id, call = std::move(call)] {
      if (*alive && armed_.erase(id)) call();
    });
    return id;
  }
  void cancel(TimerId id) override { armed_.erase(id); }
  void kill() { *alive_ = false; }

 private:
  World& w_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  TimerId next_ = 1;
  std::set<TimerId> armed_;
};

class World::SimRandom final : public shell::Random {
 public:
  explicit SimRandom(World& w) : w_(w) {}
  std::string id(std::string_view prefix) override {
    return std::string(prefix) + "-" + std::to_string(w_.next_id_++);
  }

 private:
  World& w_;
};

// Commits take a while; a crash keeps any number of the first ones and loses the rest.
class World::SimJournal final : public storage::Journal {
 public:
  explicit SimJournal(World& w) : w_(w) {}
  void commit(storage::Commit c, std::function<void(Status)> done) override {
    waiting_.push_back({std::move(c), std::move(done)});
    w_.time.in(w_.time.pick(0, 3), [this, alive = alive_] {
      if (!*alive || waiting_.empty()) return;
      auto [commit, d] = std::move(waiting_.front());
      waiting_.pop_front();
      w_.journal.commit(std::move(commit), std::move(d));
    });
  }
  void crash() {
    *alive_ = false;
    for (auto& [commit, done] : waiting_) {
      if (w_.time.chance(0.5)) break;
      w_.journal.commit(std::move(commit), [](Status) {});
    }
  }
  Result<storage::Recovered> recover() override { return w_.journal.recover(); }
  Status read_log(uint64_t from, uint64_t to,
                  const std::function<Status(const storage::LogRecord&)>& each) override {
    return w_.journal.read_log(from, to, each);
  }
  Result<std::vector<storage::Entry>> history(uint64_t run, uint64_t last_commit,
                                              uint64_t after) override {
    return w_.journal.history(run, last_commit, after);
  }
  uint64_t searchable_up_to() override {  // lags behind
    const uint64_t last = w_.journal.searchable_up_to();
    return last - std::min<uint64_t>(last, 5);
  }
  Result<std::vector<storage::EndedRow>> ended(const storage::EndedQuery& query) override {
    return w_.journal.ended(query);
  }
  Result<std::optional<storage::EndedRow>> ended_by_number(uint64_t run) override {
    return w_.journal.ended_by_number(run);
  }
  Result<std::optional<storage::EndedRow>> ended_by_key(const std::string& key) override {
    return w_.journal.ended_by_key(key);
  }
  Result<std::map<int, uint64_t>> ended_counts() override { return w_.journal.ended_counts(); }
  Result<std::optional<uint64_t>> number_of_old_id(const std::string& id) override {
    return w_.journal.number_of_old_id(id);
  }
  Result<std::map<std::string, std::string>> secrets_of(uint64_t run) override {
    return w_.journal.secrets_of(run);
  }
  Result<std::optional<std::string>> blob(const std::string& hash) override {
    return w_.journal.blob(hash);
  }
  Result<std::vector<std::string>> check(const storage::CheckOptions& options) override {
    return w_.journal.check(options);
  }

 private:
  World& w_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::deque<std::pair<storage::Commit, std::function<void(Status)>>> waiting_;
};

class World::SimTransport final : public shell::Transport {
 public:
  explicit SimTransport(World& w) : w_(w) {}
  void send(shell::Channel channel, const std::string& routing_id,
            std::string_view bytes) override {
    World& w = w_;
    w.time.in(w.time.pick(0, 2), [&w, channel, routing_id, payload = std::string(bytes)] {
      if (channel == shell::Channel::kStages) return w.to_host(routing_id, payload);
      v1::ClientReply reply;
      if (reply.ParseFromString(payload))
        w.replies_[reply.request_id()].push_back(std::move(reply));
    });
  }
  void allow_node(const std::string&, const std::string&) override {}
  void forbid_node(const std::string&) override {}

 private:
  World& w_;
};

class World::SimProcesses final : public shell::Processes {
 public:
  explicit SimProcesses(World& w) : w_(w) {}
  Result<ProcessId> spawn_host(const shell::HostSpec& spec) override {
    if (w_.time.chance(w_.behaviour.spawn_fails))
      return Error{ErrorCode::kUnavailable, "fork: no more processes", {}};
    auto host = std::make_unique<Host>();
    host->id = spec.host_id;
    host->process = ProcessId{w_.next_pid_++, 1, "boot"};
    ++w_.hosts_started;
    const ProcessId id = host->process;
    w_.hosts_[spec.host_id] = std::move(host);
    World& w = w_;
    w.time.in(w.time.pick(1, 20), [&w, h = spec.host_id] {
      if (w.time.chance(w.behaviour.crash_early)) return w.die(h);
      w.hello(h);
    });
    return id;
  }
  std::optional<ProcessId> find_host(const std::string& id) override {
    Host* h = w_.alive(id);
    return h ? std::optional(h->process) : std::nullopt;
  }
  bool alive(const ProcessId& id) override {
    Host* h = find(id);
    return h && h->living;
  }
  void kill(const ProcessId& id) override {
    Host* h = find(id);
    if (!h) return;
    World& w = w_;
    w.time.in(w.time.pick(0, 2), [&w, host = h->id] { w.die(host); });
  }
  void watch(const ProcessId& id, std::function<void(std::string)> gone) override {
    Host* h = find(id);
    if (!h || !h->living) return w_.time.in(0, [gone] { gone("it ended"); });
    h->watcher = std::move(gone);
  }

 private:
  Host* find(const ProcessId& id) {
    for (auto& [k, h] : w_.hosts_) {
      if (h->process == id) return h.get();
    }
    return nullptr;
  }
  World& w_;
};

class World::SimLogs final : public shell::StageLogs {
 public:
  void append(const std::string& run, const std::string& stage, const std::string& line) override {
    files_[run + "/" + stage] += line + "\n";
  }
  std::string read(const std::string& run, const std::string& stage, uint64_t offset,
                   size_t max) override {
    const std::string& f = files_[run + "/" + stage];
    return offset >= f.size() ? "" : f.substr(offset, max);
  }

 private:
  std::map<std::string, std::string> files_;
};

struct World::Daemon {
  explicit Daemon(World& w)
      : clock(w), executor(w), random(w), journal(w), transport(w), processes(w) {}
  SimClock clock;
  SimExecutor executor;
  SimRandom random;
  SimJournal journal;
  SimTransport transport;
  SimProcesses processes;
  SimLogs logs;
  std::unique_ptr<shell::Shell> shell;
};

World::World(uint64_t seed, Behaviour b) : time(seed), behaviour(b) {}
World::~World() {
  if (daemon_) daemon_->executor.kill();
}

void World::start_daemon() {
  if (daemon_) return;
  daemon_ = std::make_unique<Daemon>(*this);
  shell::Settings s;
  s.version = "sim";
  s.boot_id = "boot";
  s.secrets_key = Secret(std::string(32, 'k'));
  s.workflows["default"] = three_stages();
  daemon_->shell = std::make_unique<shell::Shell>(
      shell::World{daemon_->executor, daemon_->clock, daemon_->random, daemon_->journal,
                   daemon_->transport, daemon_->processes, daemon_->logs},
      s,
      shell::Shell::Hooks{
          [this](Status st) { violations.push_back("store: " + st.error().to_string()); },
          [] {},
          {}});
  shell_ = daemon_->shell.get();
  Status started = shell_->start();
  if (!started.ok()) violations.push_back("start: " + started.error().to_string());
}

// kill -9: nothing more is said or done, and what was not durable is lost.
void World::crash_daemon() {
  if (!daemon_) return;
  ++crashes;
  daemon_->executor.kill();
  daemon_->journal.crash();
  for (auto& [id, host] : hosts_) host->watcher = nullptr;
  shell_ = nullptr;
  daemon_->shell.reset();
  daemon_.reset();
}

void World::run_for(int64_t ms) {
  run_until([] { return false; }, ms);
}

bool World::run_until(const std::function<bool()>& done, int64_t ms) {
  const int64_t end = time.now + ms;
  bool over = false;
  time.at(end, [&over] { over = true; });
  while (!done()) {
    if (over || !time.step()) return done();
  }
  // The mark stays in the queue: let it do no harm.
  while (!over && time.step()) {
  }
  return true;
}

void World::to_daemon(shell::Channel channel, const std::string& routing_id, std::string payload) {
  time.in(time.pick(0, 2), [this, channel, routing_id, payload = std::move(payload)] {
    if (shell_) shell_->on_message(channel, bus::Peer{routing_id, "uid:1"}, payload);
  });
}

uint64_t World::ask(v1::ClientRequest request) {
  const uint64_t id = next_request_++;
  request.set_request_id(id);
  request.set_protocol(1);
  to_daemon(shell::Channel::kClients, "client", request.SerializeAsString());
  return id;
}

v1::RunState World::state_of(const std::string& id) {
  v1::RunState state = v1::RUN_STATE_UNSPECIFIED;
  auto ended = journal.ended_by_number(shell::number_of_id(id));
  if (ended.ok() && ended->has_value()) state = static_cast<v1::RunState>((*ended)->state);
  if (shell_) {
    shell_->each_run([&](const core::RunState& run) {
      if (run.run_id == id) state = run.state();
    });
  }
  return state;
}

std::vector<storage::Entry> World::entries() {
  std::vector<storage::Entry> all;
  if (journal.last() == 0) return all;
  Status read = journal.read_log(1, journal.last(), [&](const storage::LogRecord& record) {
    all.insert(all.end(), record.entries.begin(), record.entries.end());
    return Status{};
  });
  if (!read.ok()) violations.push_back("log: " + read.error().to_string());
  return all;
}

size_t World::runs_named(const std::string& name) {
  size_t n = 0;
  for (const auto& entry : entries()) {
    v1::Event event;
    n += event.ParseFromString(entry.body) && event.has_submitted() &&
         event.submitted().name() == name;
  }
  return n;
}

size_t World::living_hosts() const {
  size_t n = 0;
  for (const auto& [id, h] : hosts_) n += h->living;
  return n;
}

World::Host* World::alive(const std::string& id) {
  auto it = hosts_.find(id);
  return it != hosts_.end() && it->second->living ? it->second.get() : nullptr;
}

void World::die(const std::string& id) {
  Host* h = alive(id);
  if (!h) return;
  h->living = h->acting = false;
  if (h->watcher)
    time.in(time.pick(0, 3), [w = std::move(h->watcher)] { w("killed by signal 9"); });
}

void World::say(Host& host, v1::StageMessage message) {
  v1::StageBatch batch;
  if (host.ref.run_id().size()) *message.mutable_ref() = host.ref;
  *batch.add_messages() = std::move(message);
  to_daemon(shell::Channel::kStages, host.id, batch.SerializeAsString());
}

void World::hello(const std::string& id) {
  Host* h = alive(id);
  if (!h) return;
  if (!h->heard || time.now - h->heard_at > 2'000) {
    v1::StageMessage m;
    m.mutable_hello()->set_host_id(id);
    say(*h, m);
  }
  time.in(1'000, [this, id] { hello(id); });
}

v1::WorkflowDefinition three_stages() {
  v1::WorkflowDefinition w;
  w.set_name("default");
  w.set_version(1);
  std::string before;
  for (const char* name : {"make", "start", "serve"}) {
    auto* s = w.add_stages();
    s->set_name(name);
    s->set_plugin(name);
    if (!before.empty()) s->add_after(before);
    s->set_has_destroy(true);
    s->set_keeps_running(std::string(name) == "serve");
    s->set_heartbeat_timeout_ms(5'000);
    s->set_run_timeout_ms(60'000);
    auto* r = s->mutable_retry();
    r->set_max_attempts(1'000);
    r->set_first_delay_ms(50);
    r->set_multiplier(2);
    r->set_max_delay_ms(2'000);
    r->set_jitter(0.2);
    before = name;
  }
  return w;
}

}  // namespace bp::sim
