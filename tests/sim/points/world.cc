#include "tests/sim/points/world.h"

#include <deque>
#include <new>

#include "engine/base/files.h"
#include "storage/sqlite_journal.h"
#include "tests/sim/points/fail_alloc.h"
#include "tests/sim/points/hosts.h"

namespace bp::sim {

bool g_in_daemon = false;

namespace {

constexpr const char* kJournal = "journal.db";
constexpr int kWalPages = 60;  // small: checkpoints belong to every history

struct InDaemon {
  InDaemon() { g_in_daemon = true; }
  ~InDaemon() { g_in_daemon = false; }
};

}  // namespace

class PointsWorld::Clock final : public bp::Clock {
 public:
  explicit Clock(PointsWorld& w) : w_(w) {}
  int64_t wall_ms() const override { return 1'700'000'000'000 + w_.time.now; }
  int64_t boot_ms() const override { return w_.time.now; }

 private:
  PointsWorld& w_;
};

// Calls of a daemon that has died are forgotten.
class PointsWorld::Executor final : public shell::Executor {
 public:
  explicit Executor(PointsWorld& w) : w_(w) {}
  void post(std::function<void()> call) override {
    NoFailures ours;
    w_.time.in(0, [alive = alive_, call = std::move(call)] {
      InDaemon in;
      if (*alive) call();
    });
  }
  TimerId after(int64_t ms, std::function<void()> call) override {
    NoFailures ours;
    const TimerId id = next_++;
    armed_.insert(id);
    w_.time.in(ms, [this, alive = alive_, id, call = std::move(call)] {
      InDaemon in;
      if (*alive && armed_.erase(id)) call();
    });
    return id;
  }
  void cancel(TimerId id) override { armed_.erase(id); }
  void kill() { *alive_ = false; }
  std::shared_ptr<bool> alive() const { return alive_; }

 private:
  PointsWorld& w_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  TimerId next_ = 1;
  std::set<TimerId> armed_;
};

class PointsWorld::Random final : public shell::Random {
 public:
  explicit Random(PointsWorld& w) : w_(w) {}
  std::string id(std::string_view prefix) override {
    std::string number = std::to_string(w_.next_id_++);
    return std::string(prefix) + "-" + std::string(16 - number.size(), '0') + number;
  }

 private:
  PointsWorld& w_;
};

// The real journal behind a writer that takes its time: one commit after another, and what was not
// begun when the daemon dies is lost.
class PointsWorld::Journal final : public storage::Journal {
 public:
  Journal(PointsWorld& w, std::unique_ptr<storage::SqliteJournal> inner, std::shared_ptr<bool> alive)
      : w_(w), inner_(std::move(inner)), alive_(std::move(alive)) {}

  void commit(storage::Commit c, std::function<void(Status)> done) override {
    NoFailures ours;
    waiting_.push_back({std::move(c), std::move(done)});
    w_.time.in(w_.time.pick(0, 3), [this, alive = alive_] {
      if (!*alive || waiting_.empty()) return;
      InDaemon in;
      auto [commit, done] = std::move(waiting_.front());
      waiting_.pop_front();
      inner_->commit(std::move(commit), std::move(done));
    });
  }
  Result<storage::Recovered> recover() override { return inner_->recover(); }
  Status read_log(uint64_t from, uint64_t to,
                  const std::function<Status(const storage::LogRecord&)>& each) override {
    return inner_->read_log(from, to, each);
  }
  Result<std::vector<storage::Entry>> history(uint64_t run_number, uint64_t last_commit,
                                              uint64_t after) override {
    return inner_->history(run_number, last_commit, after);
  }
  uint64_t searchable_up_to() override { return inner_->searchable_up_to(); }
  Result<std::vector<storage::EndedRow>> ended(const storage::EndedQuery& q) override {
    return inner_->ended(q);
  }
  Result<std::optional<storage::EndedRow>> ended_by_number(uint64_t n) override {
    return inner_->ended_by_number(n);
  }
  Result<std::optional<storage::EndedRow>> ended_by_key(const std::string& key) override {
    return inner_->ended_by_key(key);
  }
  Result<std::map<int, uint64_t>> ended_counts() override { return inner_->ended_counts(); }
  Result<std::optional<uint64_t>> number_of_old_id(const std::string& id) override {
    return inner_->number_of_old_id(id);
  }
  Result<std::map<std::string, std::string>> secrets_of(uint64_t n) override {
    return inner_->secrets_of(n);
  }
  Result<std::optional<std::string>> blob(const std::string& hash) override {
    return inner_->blob(hash);
  }
  Result<std::vector<std::string>> check(const storage::CheckOptions& o) override {
    return inner_->check(o);
  }

 private:
  PointsWorld& w_;
  std::unique_ptr<storage::SqliteJournal> inner_;
  std::shared_ptr<bool> alive_;
  std::deque<std::pair<storage::Commit, std::function<void(Status)>>> waiting_;
};

// A dead daemon neither sends nor starts anything, also in the turn of the loop in which it died.
class PointsWorld::Transport final : public shell::Transport {
 public:
  explicit Transport(PointsWorld& w) : w_(w) {}
  void send(shell::Channel channel, const std::string& id, std::string_view payload) override {
    NoFailures ours;
    if (w_.vfs.dead()) return;
    PointsWorld& w = w_;
    w.post([&w, channel, id, payload = std::string(payload)] {
      if (channel == shell::Channel::kStages) return w.to_host(id, payload);
      if (channel == shell::Channel::kClients) w.answer(payload);
    });
  }
  void allow_node(const std::string&, const std::string&) override {}
  void forbid_node(const std::string&) override {}

 private:
  PointsWorld& w_;
};

class PointsWorld::Processes final : public shell::Processes {
 public:
  explicit Processes(PointsWorld& w) : w_(w) {}
  Result<ProcessId> spawn_host(const shell::HostSpec& spec) override {
    NoFailures ours;
    if (w_.vfs.dead() || w_.time.chance(w_.trouble.spawn_fails))
      return Error{ErrorCode::kUnavailable, "fork: no more processes", {}};
    std::unique_ptr<Host> host;
    if (spec.shared) {
      host = std::make_unique<SharedHost>(w_, spec.host_id, spec.plugin, 1);
    } else {
      host = std::make_unique<OwnHost>(w_, spec.host_id);
      w_.ledger.spawned(spec.host_id);
    }
    const ProcessId id = host->process;
    host->begin_life(w_.time.chance(w_.trouble.crash / 2));
    w_.hosts_[spec.host_id] = std::move(host);
    return id;
  }
  std::optional<ProcessId> find_host(const std::string& id) override {
    Host* h = w_.find_host(id);
    return h ? std::optional(h->process) : std::nullopt;
  }
  bool alive(const ProcessId& id) override {
    Host* h = find(id);
    return h && h->living;
  }
  void kill(const ProcessId& id) override {
    NoFailures ours;
    Host* h = find(id);
    if (!h || w_.vfs.dead()) return;
    w_.time.in(w_.time.pick(0, 2), [h] { h->die(); });
  }
  void watch(const ProcessId& id, std::function<void(std::string)> gone) override {
    NoFailures ours;
    Host* h = find(id);
    if (h && h->living) {
      h->watcher = [gone = std::move(gone)](std::string how) {
        InDaemon in;
        gone(std::move(how));
      };
      return;
    }
    w_.time.in(0, [gone] {
      InDaemon in;
      gone("it ended");
    });
  }

 private:
  Host* find(const ProcessId& id) {
    for (auto& [k, h] : w_.hosts_) {
      if (h->process == id) return h.get();
    }
    return nullptr;
  }
  PointsWorld& w_;
};

class PointsWorld::Logs final : public shell::StageLogs {
 public:
  void append(const std::string&, const std::string&, const std::string&) override {}
  std::string read(const std::string&, const std::string&, uint64_t, size_t) override { return {}; }
};

struct PointsWorld::Life {
  explicit Life(PointsWorld& w)
      : clock(w), executor(w), random(w), transport(w), processes(w) {}
  Clock clock;
  Executor executor;
  Random random;
  Transport transport;
  Processes processes;
  Logs logs;
  std::unique_ptr<Journal> journal;
  std::unique_ptr<shell::Shell> shell;
};

PointsWorld::PointsWorld(uint64_t seed, Trouble t)
    : time(seed), vfs("sim", seed), trouble(t) {
  // As in a real folder: the write-ahead log has its size beforehand and is durable.
  Disk& disk = vfs.disk();
  const std::string wal = std::string(kJournal) + "-wal";
  const std::string zeroes(size_t(32 + kWalPages * (4096 + 24)), '\0');
  disk.create(wal);
  disk.write(wal, 0, zeroes.data(), int64_t(zeroes.size()));
  disk.sync(wal);
  disk.sync_names();
}

PointsWorld::~PointsWorld() {
  if (!life_) return;
  life_->executor.kill();
  life_->shell.reset();
  life_->journal.reset();
}

void PointsWorld::start_daemon() {
  if (life_) return;
  if (vfs.dead()) vfs.revive();
  ++lives;
  stopped_ = false;
  auto life = std::make_unique<Life>(*this);
  storage::SqliteJournalOptions options;
  options.path = kJournal;
  options.vfs = vfs.name();
  options.threads = false;
  options.wal_pages = kWalPages;
  auto journal = storage::SqliteJournal::open(options);
  if (!journal.ok()) {
    return not_started(journal.error());
  }
  life->journal =
      std::make_unique<Journal>(*this, std::move(journal).value(), life->executor.alive());
  shell::Settings s;
  s.version = "sim";
  s.boot_id = "boot";
  s.secrets_key = Secret(std::string(32, 'k'));
  s.workflows = workflows;
  life->shell = std::make_unique<shell::Shell>(
      shell::World{life->executor, life->clock, life->random, *life->journal, life->transport,
                   life->processes, life->logs},
      s, shell::Shell::Hooks{[this](Status) { stopped_ = true; }, [] {}, {}});
  life_ = std::move(life);
  Status started = life_->shell->start();
  if (!started.ok()) not_started(started.error());
  if (vfs.dead()) bury();
}

void PointsWorld::not_started(const Error& error) {
  if (!vfs.dead() && !std::exchange(may_refuse, false))
    return ledger.fail(Fault::kBroken, "the daemon does not start: " + error.to_string());
  std::mt19937_64 random(lives);
  if (!vfs.dead()) vfs.die(Tail::kKept, random);
}

// Nothing more is said or done, and what was not durable is lost.
void PointsWorld::bury() {
  if (!life_) return;
  std::mt19937_64 random(lives);
  if (!vfs.dead()) vfs.die(Tail::kKept, random);  // an exit by itself: the machine lives
  life_->executor.kill();
  for (auto& [id, host] : hosts_) host->watcher = nullptr;
  asked_.clear();
  life_->shell.reset();
  life_->journal.reset();
  life_.reset();
}

bool PointsWorld::run_until(const std::function<bool()>& done, int64_t ms) {
  const int64_t end = time.now + ms;
  // Looked at now and then: it costs more than most events do.
  for (uint64_t n = 0; n % 8 != 0 || !done(); ++n) {
    if (time.now >= end) return false;
    if (!life_) {
      try {
        start_daemon();
      } catch (const std::bad_alloc&) {
        stopped_ = true;
      }
      g_in_daemon = false;
      if (!ledger.violations().empty()) return false;
    }
    try {
      if (!time.step()) time.now = end;
    } catch (const std::bad_alloc&) {
      stopped_ = true;
    }
    g_in_daemon = false;
    if (vfs.dead() || stopped_) bury();
  }
  return true;
}

void PointsWorld::post(std::function<void()> deliver) {
  if (time.chance(trouble.drop)) return;
  if (time.chance(trouble.twice)) time.in(time.pick(0, 20), deliver);
  time.in(time.chance(trouble.late) ? time.pick(3, 40) : time.pick(0, 2), std::move(deliver));
}

void PointsWorld::to_daemon(shell::Channel channel, const std::string& id, std::string payload) {
  post([this, channel, id, payload = std::move(payload)] {
    if (!life_) return;
    InDaemon in;
    life_->shell->on_message(channel, bus::Peer{id, "uid:1"}, payload);
  });
}

void PointsWorld::to_host(const std::string& id, const std::string& payload) {
  Host* host = find_host(id);
  v1::StageBatch batch;
  if (host && batch.ParseFromString(payload)) host->hear(batch);
}

void PointsWorld::answer(const std::string& payload) {
  v1::ClientReply reply;
  if (!reply.ParseFromString(payload)) return;
  auto it = asked_.find(reply.request_id());
  if (it != asked_.end()) it->second(reply);
}

void PointsWorld::ask(v1::ClientRequest request,
                      std::function<void(const v1::ClientReply&)> take) {
  const uint64_t id = next_request_++;
  request.set_request_id(id);
  request.set_protocol(1);
  asked_[id] = std::move(take);
  to_daemon(shell::Channel::kClients, "client", request.SerializeAsString());
}

PointsWorld::Host* PointsWorld::find_host(const std::string& id) {
  auto it = hosts_.find(id);
  return it != hosts_.end() && it->second->living ? it->second.get() : nullptr;
}

size_t PointsWorld::living_hosts() const {
  size_t n = 0;
  for (const auto& [id, h] : hosts_) n += h->living && !id.starts_with("s-");
  return n;
}

shell::Shell* PointsWorld::shell() { return life_ ? life_->shell.get() : nullptr; }
storage::Journal& PointsWorld::journal() { return *life_->journal; }

void PointsWorld::save_disk(const std::string& folder) const {
  if (!make_dirs(folder).ok()) return;
  const Disk& disk = const_cast<CrashVfs&>(vfs).disk();
  for (const auto& name : disk.names()) {
    Status written = write_file_atomic(folder + "/" + name, disk.contents(name));
    (void)written;
  }
}

}  // namespace bp::sim
