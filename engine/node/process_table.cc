#include "engine/node/process_table.h"

#include <signal.h>
#include <sys/wait.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "engine/base/log.h"
#include "engine/node/convert.h"
#include "engine/node/process_entry.h"

namespace bp::node {
namespace asio = boost::asio;

ProcessTable::ProcessTable(asio::io_context& io, StateStore& store, TableOptions options,
                           Ended on_ended)
    : io_(io),
      store_(store),
      options_(std::move(options)),
      on_ended_(std::move(on_ended)),
      segments_(store) {}
ProcessTable::~ProcessTable() = default;

std::string ProcessTable::log_path(const std::string& key) const {
  return options_.work_dir + "/logs/" + key + ".log";
}

// ---- one operation per key at a time

void ProcessTable::enqueue(const std::string& key, std::function<void()> operation) {
  auto& queue = queues_[key];
  queue.push_back(std::move(operation));
  if (queue.size() == 1) run_next(key);
}

void ProcessTable::run_next(const std::string& key) {
  asio::post(io_, [this, key] {
    auto it = queues_.find(key);
    if (it == queues_.end()) return;
    auto operation = it->second.front();  // stays in the queue until finish()
    operation();
  });
}

void ProcessTable::finish(const std::string& key) {
  auto it = queues_.find(key);
  BP_CHECK(it != queues_.end() && !it->second.empty());
  it->second.pop_front();
  if (it->second.empty()) {
    queues_.erase(it);
  } else {
    run_next(key);
  }
}

// ---- stopping

void ProcessTable::stop(const std::string& key, int64_t grace_ms, StopDone done) {
  enqueue(key, [this, key, grace_ms, done = std::move(done)] {
    auto it = entries_.find(key);
    if (it == entries_.end()) {
      finish(key);
      done({});
      return;
    }
    end_process(it->second, grace_ms, "stopped on request", [this, key, done](Status s) {
      finish(key);
      done(std::move(s));
    });
  });
}

void ProcessTable::stop_all(int64_t grace_ms, std::function<void(std::vector<std::string>)> done) {
  struct Join {
    size_t left = 1;
    std::vector<std::string> survivors;
  };
  auto join = std::make_shared<Join>();
  auto one_less = [join, done] {
    if (--join->left == 0) done(join->survivors);
  };
  // Operations that wait in a queue may still start something: stop every key that has either.
  std::map<std::string, bool> keys;
  for (const auto& [key, entry] : entries_) keys[key] = true;
  for (const auto& [key, queue] : queues_) keys[key] = true;
  for (const auto& [key, unused] : keys) {
    ++join->left;
    stop(key, grace_ms, [join, one_less](Status s) {
      if (!s.ok()) join->survivors.push_back(s.error().message);
      one_less();
    });
  }
  one_less();
}

void ProcessTable::end_process(const EntryPtr& e, int64_t grace_ms, const std::string& reason,
                               StopDone done) {
  e->waiters.push_back(std::move(done));
  if (e->reason.empty()) e->reason = reason;
  if (e->killed) return;  // already on its way: the waiters hear of it
  if (grace_ms <= 0) return kill_hard(e);
  if (e->asked) return;
  e->asked = true;
  BP_LOG(info, "process.stop", "key={} pid={} reason=\"{}\"", e->key(), e->id().pid, reason);
  (void)process_signal(e->id(), SIGTERM);
  e->timer.expires_after(std::chrono::milliseconds(std::min<int64_t>(grace_ms, 600'000)));
  e->timer.async_wait([this, e](const boost::system::error_code& ec) {
    if (!ec && !e->gone) kill_hard(e);
  });
}

void ProcessTable::kill_hard(const EntryPtr& e) {
  if (e->killed) return;
  e->killed = true;
  BP_LOG(info, "process.kill", "key={} pid={} reason=\"{}\"", e->key(), e->id().pid, e->reason);
  auto sent = process_signal(e->id(), SIGKILL);
  if (!sent.ok())
    BP_LOG(warn, "process.kill_failed", "key={} error=\"{}\"", e->key(), sent.error().message);
  e->timer.expires_after(std::chrono::milliseconds(kProofMs));
  e->timer.async_wait([this, e](const boost::system::error_code& ec) {
    if (ec || e->gone) return;
    e->killed = e->asked = false;  // the next request tries again
    auto waiters = std::exchange(e->waiters, {});
    for (auto& w : waiters) {
      w(Error{ErrorCode::kDeadlineExceeded,
              "process " + e->key() + " (pid " + std::to_string(e->id().pid) + ") on node " +
                  options_.node_id + " is still there " + std::to_string(kProofMs) +
                  " ms after SIGKILL",
              {}});
    }
  });
}

// ---- watching

ProcessTable::EntryPtr ProcessTable::insert(const v1::KnownProcess& known, bool child) {
  auto entry = std::make_shared<Entry>(io_, known, child);
  entries_[entry->key()] = entry;
  return entry;
}

void ProcessTable::watch(const EntryPtr& e) {
  auto fd = process_watch(e->id());
  if (!fd.ok()) {  // already ended
    asio::post(io_, [this, e] { gone(e); });
    return;
  }
  e->pidfd.assign(fd->release());
  e->pidfd.async_wait(asio::posix::stream_descriptor::wait_read,
                      [this, e](const boost::system::error_code& ec) {
                        if (!ec) gone(e);
                      });
}

void ProcessTable::gone(const EntryPtr& e) {
  if (e->gone) return;
  e->gone = true;
  e->timer.cancel();
  v1::ProcessEnded ended;
  ended.set_process_key(e->key());
  ended.set_role(e->known.status().role());
  *ended.mutable_epoch() = e->known.status().epoch();
  *ended.mutable_identity() = e->known.status().identity();
  ended.set_exit_code(-1);
  int status = 0;
  if (e->child && ::waitpid(e->id().pid, &status, WNOHANG) == e->id().pid) {
    if (WIFEXITED(status)) ended.set_exit_code(WEXITSTATUS(status));
    if (WIFSIGNALED(status)) ended.set_signal(WTERMSIG(status));
  }
  ended.set_reason(
      e->reason.empty()
          ? (ended.signal() ? "ended by signal " + std::to_string(ended.signal()) : "exited")
          : e->reason);
  ended.set_log_tail(log_tail(log_path(e->key()), 4096));
  entries_.erase(e->key());
  if (may_restart(e, ended)) restart(e, ended);
  note_ended(std::move(ended));
  auto waiters = std::exchange(e->waiters, {});
  for (auto& w : waiters) w({});
}

void ProcessTable::note_ended(v1::ProcessEnded ended) {
  BP_LOG(info, "process.ended", "key={} pid={} exit_code={} signal={} reason=\"{}\"",
         ended.process_key(), ended.identity().pid(), ended.exit_code(), ended.signal(),
         ended.reason());
  auto* known = store_.find(ended.process_key());
  if (known && from_proto(known->status().identity()) == from_proto(ended.identity())) {
    store_.erase(ended.process_key());
  }
  *store_.state().add_ended() = ended;
  // Not durable is not lost: a successor finds the process gone and reports it again.
  if (auto s = store_.save(); !s.ok())
    BP_LOG(warn, "state.not_saved", "error=\"{}\"", s.error().to_string());
  on_ended_(ended);
}

void ProcessTable::check_leases() {
  const int64_t now = monotonic_ns();
  for (const auto& [key, e] : entries_) {
    if (!e->lease || e->killed) continue;
    const int64_t deadline = e->lease.deadline_ns();
    if (deadline != 0 && deadline < now) {
      e->reason = "killed: lease lapsed";
      kill_hard(e);
    }
  }
}

std::vector<v1::ProcessStatus> ProcessTable::list() const {
  std::vector<v1::ProcessStatus> out;
  for (const auto& [key, e] : entries_) {
    if (!e->gone) out.push_back(e->known.status());
  }
  return out;
}

// ---- taking over from a predecessor

Status ProcessTable::adopt() {
  segments_.reopen();
  const v1::NodeState before = store_.state();
  for (const auto& known : before.processes()) BP_TRY(adopt_one(known));
  BP_TRY(store_.save());
  std::string survivors;
  for (const ProcessId& id : processes_marked(options_.work_dir)) {
    bool known = false;
    const pid_t session = ::getsid(id.pid);  // a helper of a known process lives in its session
    for (const auto& [key, e] : entries_) known |= e->id() == id || session == e->id().pid;
    if (known) continue;
    BP_LOG(warn, "process.unknown",
           "pid={} carries this folder's mark but was never written down: killed", id.pid);
    (void)process_signal(id, SIGKILL);
    if (!process_wait_gone(id, Deadline::in_ms(kProofMs)).ok())
      survivors += " " + std::to_string(id.pid);
  }
  if (!survivors.empty()) {
    return Error{
        ErrorCode::kNeedsHuman, "processes of an earlier agent do not die: pid" + survivors, {}};
  }
  return {};
}

Status ProcessTable::adopt_one(const v1::KnownProcess& known) {
  const auto& status = known.status();
  const ProcessId id = from_proto(status.identity());
  if (!process_alive(id)) {
    v1::ProcessEnded ended;
    ended.set_process_key(status.process_key());
    ended.set_role(status.role());
    *ended.mutable_epoch() = status.epoch();
    *ended.mutable_identity() = status.identity();
    ended.set_exit_code(-1);
    ended.set_reason("ended while no agent ran");
    ended.set_log_tail(log_tail(log_path(status.process_key()), 4096));
    note_ended(std::move(ended));
    return {};
  }
  auto e = insert(known, false);
  e->wanted = start_of(known);
  e->known.mutable_status()->set_adopted(true);
  store_.find(e->key())->mutable_status()->set_adopted(true);
  watch(e);
  BP_LOG(info, "process.adopted", "key={} pid={}", e->key(), id.pid);
  if (!known.leased()) return {};
  auto lease = Lease::reopen(id);
  if (lease.ok()) {
    e->lease = std::move(*lease);
  } else {  // it could not be fenced any more
    BP_LOG(warn, "lease.lost", "key={} error=\"{}\"", e->key(), lease.error().message);
    e->reason = "killed: its lease page is lost";
    kill_hard(e);
  }
  return {};
}

}  // namespace bp::node
