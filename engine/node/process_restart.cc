// Starting a process again without being asked: under the very epoch that its stage gave, and only after the pidfd
// proved the old one dead. A start under a newer epoch, a stop or a release goes before it.
#include <signal.h>

#include "engine/base/log.h"
#include "engine/node/convert.h"
#include "engine/node/process_entry.h"

namespace bp::node {
namespace {

// A process that others kill may be started often, one that fails by itself is somebody else's to judge soon.
constexpr int64_t kWindowNs = 8'000'000'000;
constexpr size_t kKilledInWindow = 10;
constexpr size_t kFailedInWindow = 2;

}  // namespace

bool ProcessTable::may_restart(const EntryPtr& e, const v1::ProcessEnded& ended) {
  const v1::StartProcess& w = e->wanted;
  if (!w.restart() || w.program().empty() || e->asked || queues_.count(e->key())) return false;
  for (int32_t status : w.no_restart()) {
    if (ended.signal() == 0 && ended.exit_code() == status) return false;
  }
  auto& times = restarts_[e->key()];
  const int64_t now = monotonic_ns();
  while (!times.empty() && now - times.front() > kWindowNs) times.pop_front();
  const bool killed = ended.signal() == SIGKILL || !e->child;
  if (times.size() >= (killed ? kKilledInWindow : kFailedInWindow)) {
    BP_LOG(warn, "process.not_restarted", "key={} because it was {} times within {} s", e->key(), times.size(),
           kWindowNs / 1'000'000'000);
    return false;
  }
  times.push_back(now);
  return true;
}

void ProcessTable::restart(const EntryPtr& e, v1::ProcessEnded& ended) {
  auto started = spawn(e->wanted, from_proto(e->known.status().epoch()), &ended);
  if (started.ok()) {
    *ended.mutable_restarted() = *started;
  } else {
    BP_LOG(warn, "process.not_restarted", "key={} error=\"{}\"", e->key(), started.error().to_string());
  }
}

v1::StartProcess start_of(const v1::KnownProcess& known) {
  v1::StartProcess w;
  auto config = config_of(from_proto(known.status().identity()));
  if (!config.ok()) return w;
  w.set_process_key(known.status().process_key());
  w.set_role(known.status().role());
  w.set_program(known.status().role() == v1::PROCESS_ROLE_HEAD ? "bp-head" : "bp-rank");
  w.set_config(std::move(*config));
  *w.mutable_labels() = known.status().labels();
  w.set_leased(known.leased());
  // They exist under these names and this epoch: size and kind are those of the first start.
  for (const std::string& name : known.segments()) w.add_segments()->set_name(name);
  w.set_restart(known.restart());
  *w.mutable_no_restart() = known.no_restart();
  return w;
}

}  // namespace bp::node
