#include <signal.h>
#include <unistd.h>

#include "engine/base/files.h"
#include "engine/base/log.h"
#include "engine/node/convert.h"
#include "engine/node/process_entry.h"
#include "engine/node/process_table.h"

namespace bp::node {
namespace {
const std::string kEndedBySigkill = "ended by signal " + std::to_string(SIGKILL);
}  // namespace

void ProcessTable::start(const v1::StartProcess& wanted, Epoch epoch, StartDone done) {
  if (auto s = check_start(wanted); !s.ok()) return done(std::move(s).error());
  enqueue(wanted.process_key(),
          [this, wanted, epoch, done = std::move(done)] { begin_start(wanted, epoch, done); });
}

void ProcessTable::begin_start(const v1::StartProcess& wanted, Epoch epoch, StartDone done) {
  const std::string key = wanted.process_key();
  auto finish_with = [this, key, done](Result<v1::ProcessStatus> result) {
    finish(key);
    done(std::move(result));
  };
  auto it = entries_.find(key);
  if (it == entries_.end()) return finish_with(spawn(wanted, epoch));
  const EntryPtr existing = it->second;
  const Epoch running = from_proto(existing->known.status().epoch());
  if (running > epoch) {
    return finish_with(Error{ErrorCode::kStaleEpoch,
                             key + " already runs under epoch " + running.to_string() +
                                 ", asked was " + epoch.to_string(),
                             {}});
  }
  if (running == epoch && !existing->asked && !existing->killed)
    return finish_with(existing->known.status());
  end_process(existing, 0, "replaced under epoch " + epoch.to_string(),
              [this, wanted, epoch, finish_with](Status proven) {
                if (!proven.ok()) return finish_with(std::move(proven).error());
                finish_with(spawn(wanted, epoch));
              });
}

Result<v1::ProcessStatus> ProcessTable::spawn(const v1::StartProcess& wanted, Epoch epoch,
                                              const v1::ProcessEnded* predecessor) {
  SpawnOptions o;
  o.program = options_.bin_dir + "/" + wanted.program();
  if (::access(o.program.c_str(), X_OK) != 0) return errno_error("start " + o.program, errno);
  BP_TRY(make_dirs(options_.work_dir + "/logs"));
  o.args.assign(wanted.args().begin(), wanted.args().end());
  for (const auto& [name, value] : wanted.env()) o.env.emplace_back(name, value);
  // The mark by which a later agent of this folder knows its own; last, so that it wins.
  o.env.emplace_back("BP_NODE_ID", options_.node_id);
  o.env.emplace_back("BP_RUN_ID", options_.run_id);
  o.env.emplace_back("BP_PROCESS_KEY", wanted.process_key());
  o.env.emplace_back("BP_PROCESS_EPOCH", epoch.to_string());
  o.env.emplace_back("BP_NODE_WORK_DIR", options_.work_dir);
  if (predecessor) {
    const auto& id = predecessor->identity();
    o.env.emplace_back("BP_REPLACES", std::to_string(id.pid()) + ":" + std::to_string(id.start_ticks()) +
                                          ":" + id.boot_id());
    // Killed from outside it did nothing wrong until then; any other end may have spoilt its memory.
    const bool whole = predecessor->signal() == SIGKILL && predecessor->reason() == kEndedBySigkill;
    o.env.emplace_back("BP_MEMORY_WHOLE", whole ? "1" : "0");
  }
  o.work_dir = options_.work_dir;
  o.log_file = log_path(wanted.process_key());

  BP_ASSIGN(Fd config, make_sealed_config(wanted.config()));
  o.fds.emplace_back(config.get(), kConfigFd);
  Lease lease;
  if (wanted.leased()) {
    BP_ASSIGN(lease, Lease::make(wanted.process_key()));
    o.fds.emplace_back(lease.fd(), kLeaseFd);
  }
  v1::KnownProcess known;
  int number = kFirstSegmentFd;
  for (const auto& segment : wanted.segments()) {
    BP_ASSIGN(int fd, segments_.get(segment, epoch));
    o.fds.emplace_back(fd, number++);
    known.add_segments(segment.name());
  }
  known.set_leased(wanted.leased());
  known.set_restart(wanted.restart());
  *known.mutable_no_restart() = wanted.no_restart();
  auto* status = known.mutable_status();
  status->set_process_key(wanted.process_key());
  status->set_role(wanted.role());
  to_proto(epoch, status->mutable_epoch());
  *status->mutable_labels() = wanted.labels();
  status->set_started_wall_ms(SystemClock().wall_ms());

  o.before_exec = [&](const ProcessId& id) {
    to_proto(id, status->mutable_identity());
    store_.erase(wanted.process_key());
    *store_.state().add_processes() = known;
    return store_.save();
  };
  auto id = process_spawn(o);
  if (!id.ok()) {
    store_.erase(wanted.process_key());
    if (auto s = store_.save(); !s.ok())
      BP_LOG(warn, "state.not_saved", "error=\"{}\"", s.error().to_string());
    return std::move(id).error().with_context("start " + wanted.process_key() + " on node " +
                                              options_.node_id);
  }
  auto entry = insert(known, true);
  entry->lease = std::move(lease);
  entry->wanted = wanted;
  watch(entry);
  BP_LOG(info, "process.started", "key={} pid={} epoch={}", entry->key(), id->pid,
         epoch.to_string());
  return entry->known.status();
}

}  // namespace bp::node
