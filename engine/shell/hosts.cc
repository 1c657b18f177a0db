#include "engine/shell/hosts.h"

#include "engine/base/log.h"
#include "engine/shell/host.h"
#include "engine/shell/stage_events.h"
#include "engine/shell/wire.h"

namespace bp::shell {

Hosts::Hosts(World& world, const Settings& settings, Conductor& conductor, NodeRegistry& nodes,
             const AttemptMaker& maker, const SecretBox& box, Hooks hooks)
    : world_(world),
      settings_(settings),
      conductor_(conductor),
      nodes_(nodes),
      maker_(maker),
      box_(box),
      hooks_(std::move(hooks)) {}

Hosts::~Hosts() {
  *alive_ = false;
  for (auto& [id, host] : hosts_) {
    world_.executor.cancel(host->beat_timer);
    world_.executor.cancel(host->exit_timer);
  }
}

Hosts::Host* Hosts::find(const core::Attempt& ref) {
  auto it = by_attempt_.find(key_of(ref));
  return it == by_attempt_.end() || !same_epoch(it->second->ref.epoch, ref.epoch) ? nullptr
                                                                                 : it->second;
}

void Hosts::feed(const std::string& run_id, v1::Event event, std::function<void()> durable,
                 Extra extra) {
  Status fed = conductor_.feed(run_id, std::move(event), std::move(durable), std::move(extra));
  if (!fed.ok()) BP_LOG(debug, "event.refused", "run={} why={}", run_id, fed.error().message);
}

void Hosts::lost(const core::Attempt& ref, const std::string& reason) {
  v1::Event event;
  auto* e = event.mutable_lost();
  e->set_stage(ref.stage);
  e->set_map_index(ref.map_index);
  *e->mutable_epoch() = ref.epoch;
  e->set_reason(reason);
  feed(ref.run_id, std::move(event));
}

void Hosts::failed(const core::Attempt& ref, Error error) {
  v1::Event event;
  auto* e = event.mutable_ended();
  e->set_stage(ref.stage);
  e->set_map_index(ref.map_index);
  *e->mutable_epoch() = ref.epoch;
  e->set_retriable(error.retriable());
  *e->mutable_error() = to_wire(error);
  feed(ref.run_id, std::move(event));
}

void Hosts::dispatch(const core::DispatchAttempt& a) {
  v1::Event event;
  auto* e = event.mutable_dispatched();
  e->set_stage(a.ref.stage);
  e->set_map_index(a.ref.map_index);
  e->set_attempt(a.ref.attempt);
  *e->mutable_epoch() = a.ref.epoch;
  e->set_host_id(world_.random.id("h"));
  feed(a.ref.run_id, std::move(event));
}

HostSpec Hosts::spec_of(const core::StartHost& a) const {
  HostSpec spec{a.plugin, a.ref.host_id, {}, false, 0, {}};
  const auto* run = conductor_.find(a.ref.run_number);
  if (!run) return spec;
  spec.limits = run->definition(a.ref.key).limits();
  if (!run->pins) return spec;
  for (const auto& [plugin, hash] : run->pins->hashes) {
    if (plugin == a.plugin) spec.plugin_hash = hash;
  }
  return spec;
}

void Hosts::act(const core::StartHost& a) {
  auto process = world_.processes.spawn_host(spec_of(a));
  if (!process.ok()) {
    BP_LOG(warn, "host.not_started", "run={} stage={} why={}", a.ref.run_id, a.ref.stage,
           process.error().message);
    if (process.error().code == ErrorCode::kNotFound) {
      return failed(a.ref, Error{ErrorCode::kPluginLoad, process.error().message, {}});
    }
    return lost(a.ref, process.error().message);
  }
  BP_LOG(info, "attempt.dispatched", "run={} stage={} attempt={} epoch={} mode={} pid={}",
         a.ref.run_id, a.ref.stage, a.ref.attempt, epoch_text(a.ref.epoch),
         a.mode == v1::ATTEMPT_MODE_DESTROY ? "destroy" : "apply", process->pid);
  Host& host = adopt(a.ref, *process);
  host.fresh = true;
  host.plugin_version = a.plugin_version;
  v1::Event event;
  auto* e = event.mutable_host_started();
  e->set_stage(a.ref.stage);
  e->set_map_index(a.ref.map_index);
  *e->mutable_epoch() = a.ref.epoch;
  *e->mutable_process() = to_wire(*process);
  feed(a.ref.run_id, std::move(event));
}

Hosts::Host& Hosts::adopt(const core::Attempt& ref, const ProcessId& process) {
  auto& slot = hosts_[ref.host_id];
  if (slot) return *slot;
  slot = std::make_unique<Host>();
  slot->ref = ref;
  by_attempt_[key_of(ref)] = slot.get();
  slot->process = process;
  slot->heard_boot_ms = world_.clock.boot_ms();
  world_.processes.watch(process, [this, alive = alive_, id = ref.host_id](std::string how) {
    if (*alive) gone(id, how);
  });
  watch_beat(*slot, kHelloMs, false);
  return *slot;
}

// Proof of death.
void Hosts::gone(const std::string& host_id, const std::string& how) {
  auto it = hosts_.find(host_id);
  if (it == hosts_.end()) return;
  std::unique_ptr<Host> host = std::move(it->second);
  hosts_.erase(it);
  auto mine = by_attempt_.find(key_of(host->ref));
  if (mine != by_attempt_.end() && mine->second == host.get()) by_attempt_.erase(mine);
  world_.executor.cancel(host->beat_timer);
  world_.executor.cancel(host->exit_timer);
  nodes_.drop_calls(host_id + "/");
  if (host->acknowledged) {
    if (!left(host->ref.run_id)) hooks_.all_gone(host->ref.run_id);
    return;
  }
  BP_LOG(info, "host.gone", "run={} stage={} pid={} how={}", host->ref.run_id, host->ref.stage,
         host->process.pid, how);
  lost(host->ref, how);
}

void Hosts::act(const core::SendAttempt& a) {
  Host* host = find(a.ref);
  if (!host) return;  // gone meanwhile: AttemptLost is on its way
  host->may_send = true;
  if (host->greeted) send_attempt(*host);
}

void Hosts::act(const core::ReattachAttempt& a) {
  if (find(a.ref)) return;
  ProcessId process = from_wire(a.ref.host);
  const bool on_record = process.pid > 0;
  if (!on_record) {
    auto found = world_.processes.find_host(a.ref.host_id);
    if (!found) return lost(a.ref, "the daemon ended before it was started");
    process = *found;
  } else if (!world_.processes.alive(process)) {
    // How it ended may be on record.
    return world_.processes.watch(process, [this, alive = alive_, ref = a.ref](std::string how) {
      if (*alive) lost(ref, "while the daemon was away: " + how);
    });
  }
  BP_LOG(info, "attempt.reattached", "run={} stage={} pid={}", a.ref.run_id, a.ref.stage,
         process.pid);
  Host& host = adopt(a.ref, process);
  host.may_send = on_record;
  if (on_record) return;
  v1::Event event;
  auto* e = event.mutable_host_started();
  e->set_stage(a.ref.stage);
  e->set_map_index(a.ref.map_index);
  *e->mutable_epoch() = a.ref.epoch;
  *e->mutable_process() = to_wire(process);
  feed(a.ref.run_id, std::move(event));
}

void Hosts::act(const core::CancelAttempt& a) {
  Host* host = find(a.ref);
  if (!host) return;
  if (host->fresh && !host->sent) {
    // It was never told what to do: nothing to end gently.
    return world_.processes.kill(host->process);
  }
  v1::CancelAttempt cancel;
  cancel.set_deadline_ms(std::max<int64_t>(0, a.deadline_boot_ms - world_.clock.boot_ms()));
  cancel.set_reason(a.reason);
  host->cancel = cancel;
  if (!host->greeted) return;
  v1::StageMessage message;
  *message.mutable_cancel() = std::move(cancel);
  send(a.ref.host_id, host->ref, std::move(message));
}

void Hosts::act(const core::KillHost& a) {
  BP_LOG(info, "host.kill", "run={} stage={} epoch={} why={}", a.ref.run_id, a.ref.stage,
         epoch_text(a.ref.epoch), a.reason);
  if (Host* host = find(a.ref)) return world_.processes.kill(host->process);
  ProcessId process = from_wire(a.ref.host);
  if (process.pid <= 0) {
    auto found = world_.processes.find_host(a.ref.host_id);
    if (!found) return lost(a.ref, a.reason);
    process = *found;
  }
  adopt(a.ref, process);
  world_.processes.kill(process);
}

void Hosts::act(const core::AckResult& a) {
  v1::StageMessage message;
  message.mutable_result_ack();
  if (Host* host = find(a.ref)) {
    host->acknowledged = true;
    world_.executor.cancel(host->beat_timer);
    send(host->ref.host_id, host->ref, std::move(message));
    if (host->exit_timer) return;
    host->exit_timer = world_.executor.after(kExitMs, [this, id = host->ref.host_id] {
      auto it = hosts_.find(id);
      if (it != hosts_.end()) world_.processes.kill(it->second->process);
    });
    return;
  }
  auto it = strangers_.find(key_of(a.ref));
  if (it == strangers_.end()) return;
  core::Attempt ref = a.ref;
  send(it->second, ref, std::move(message));
  strangers_.erase(it);
}

// Silence is looked at twice: when this process was held up, what the host said is still unread.
void Hosts::watch_beat(Host& host, int64_t in_ms, bool second_look) {
  world_.executor.cancel(host.beat_timer);
  host.beat_timer = world_.executor.after(
      in_ms, [this, id = host.ref.host_id, second_look] { beat_due(id, second_look); });
}

void Hosts::beat_due(const std::string& host_id, bool second_look) {
  auto it = hosts_.find(host_id);
  if (it == hosts_.end() || it->second->acknowledged) return;
  Host& host = *it->second;
  const auto* run = conductor_.find(host.ref.run_id);
  const auto* definition = run ? definition_of(*run, host.ref.stage) : nullptr;
  int64_t limit = definition ? definition->heartbeat_timeout_ms() : 0;
  if (!host.greeted) limit = std::max(limit, kHelloMs);
  if (limit <= 0) return;
  const int64_t left = host.heard_boot_ms + limit - world_.clock.boot_ms();
  if (host.greeted && left > 0) return watch_beat(host, left, false);
  if (!second_look) return watch_beat(host, kSecondLookMs, true);
  BP_LOG(warn, "host.silent", "run={} stage={} pid={} limit_ms={}", host.ref.run_id, host.ref.stage,
         host.process.pid, limit);
  v1::Event event;
  auto* e = event.mutable_timer_fired();
  e->set_stage(host.ref.stage);
  e->set_map_index(host.ref.map_index);
  *e->mutable_epoch() = host.ref.epoch;
  e->set_kind(v1::TIMER_KIND_HEARTBEAT);
  feed(host.ref.run_id, std::move(event));
}

v1::Epoch Hosts::fence(const std::string& run_id) const {
  v1::Epoch epoch;
  const auto* run = conductor_.find(run_id);
  if (!run) return epoch;
  Epoch newest;
  for (const auto& stage : run->stages) {
    if (core::has_live_attempt(stage)) newest = std::max(newest, stage.epoch);
  }
  if (newest.counter == 0) newest = {run->n.incarnation, run->n.epoch_counter};
  return to_wire(newest);
}

const ProcessId* Hosts::left(const std::string& run_id) const {
  auto it = by_attempt_.lower_bound({run_id, "", 0, 0});
  return it == by_attempt_.end() || it->second->ref.run_id != run_id ? nullptr
                                                                     : &it->second->process;
}

const v1::Progress* Hosts::progress(const std::string& run_id, const std::string& stage,
                                    uint32_t map_index) const {
  for (auto it = by_attempt_.lower_bound({run_id, stage, map_index, 0});
       it != by_attempt_.end(); ++it) {
    const auto& r = it->second->ref;
    if (r.run_id != run_id || r.stage != stage || r.map_index != map_index) break;
    if (it->second->progress) return &*it->second->progress;
  }
  return nullptr;
}

bool Hosts::notice(const std::string& run_id, const v1::NodeNotice& notice) {
  bool all = true;
  for (auto& [id, host] : hosts_) {
    if (host->ref.run_id != run_id || host->acknowledged) continue;
    if (!host->greeted) {
      all = all && !host->may_send;
      continue;
    }
    v1::StageMessage message;
    *message.mutable_node_notice() = notice;
    send(id, host->ref, std::move(message));
  }
  return all;
}

}  // namespace bp::shell
