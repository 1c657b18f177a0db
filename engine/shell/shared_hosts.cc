#include "engine/shell/shared_hosts.h"

#include <algorithm>

#include "engine/base/log.h"
#include "engine/shell/shared_host.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {
constexpr uint32_t kDeathsMax = 5;  // of hosts, in a row: the attempts that wait run in OWN
constexpr int64_t kFirstDelayMs = 100;
constexpr uint32_t kSlots = 4'096;  // those whose results are under way to the journal included
constexpr int64_t kCrowdedMs = 200;  // attempts waited so long: one more host
}  // namespace

SharedHosts::SharedHosts(World& world, Conductor& conductor, const AttemptMaker& maker,
                         Hooks hooks)
    : world_(world), conductor_(conductor), maker_(maker), hooks_(std::move(hooks)) {}

SharedHosts::~SharedHosts() {
  *alive_ = false;
  world_.executor.cancel(sweep_timer_);
  world_.executor.cancel(return_timer_);
}

SharedHosts::Pool& SharedHosts::pool_of(const std::string& plugin, uint32_t version) {
  auto& slot = pools_[plugin + "/" + std::to_string(version)];
  if (!slot) {
    slot = std::make_unique<Pool>();
    slot->plugin = plugin;
    slot->version = version;
  }
  return *slot;
}

void SharedHosts::start() {
  const std::string prefix = kMetaPrefix;
  Extra dead;
  const auto& meta = conductor_.meta();
  for (auto it = meta.lower_bound(prefix); it != meta.end() && it->first.starts_with(prefix); ++it) {
    v1::HostHello on_record;
    const bool reads = on_record.ParseFromString(it->second);
    const ProcessId process = from_wire(on_record.process());
    if (!reads || !world_.processes.alive(process)) {
      dead.drop_meta.push_back(it->first);
      continue;
    }
    Pool& pool = pool_of(on_record.plugin(), on_record.plugin_version());
    adopt(it->first.substr(prefix.size()), pool, process, /*fresh=*/false);
  }
  if (!dead.drop_meta.empty()) conductor_.write(std::move(dead), [] {});
  if (hosts_.empty()) return;
  return_timer_ = world_.executor.after(kReturnMs, [this] {
    return_timer_ = 0;
    for (auto& [id, host] : hosts_) {
      if (host->greeted || host->fresh) continue;
      BP_LOG(warn, "shared_host.silent", "host={} pid={}", id, host->process.pid);
      host->killed = true;
      world_.processes.kill(host->process);
    }
  });
}

SharedHosts::Held& SharedHosts::add(const core::Attempt& ref, Pool& pool) {
  Held& held = attempts_[id_of(ref)];
  held.key = ref.key;
  held.pool = &pool;
  if (!sweep_timer_) sweep_timer_ = world_.executor.after(kSweepMs, [this] { sweep(); });
  return held;
}

void SharedHosts::act(const core::SendShared& a) {
  Pool& pool = pool_of(a.plugin, a.plugin_version);
  if (attempts_.count(id_of(a.ref))) return;
  add(a.ref, pool);
  enqueue(pool, id_of(a.ref));
  pump(pool);
}

void SharedHosts::act(const core::ReattachAttempt& a) {
  Pool& pool = pool_of(a.plugin, a.plugin_version);
  const Id id = id_of(a.ref);
  if (attempts_.count(id)) return;  // a host said so already
  Held& held = add(a.ref, pool);
  const bool may_be_held = std::any_of(pool.hosts.begin(), pool.hosts.end(), [](const Host* h) {
    return !h->fresh && !h->greeted;
  });
  if (may_be_held) {
    held.state = Held::State::kUnknown;
    pool.unknown.push_back(id);
    return;
  }
  enqueue(pool, id);
  pump(pool);
}

void SharedHosts::release_unknown(Pool& pool) {
  for (const Host* h : pool.hosts) {
    if (!h->fresh && !h->greeted) return;
  }
  for (const Id& id : std::exchange(pool.unknown, {})) {
    auto it = attempts_.find(id);
    if (it != attempts_.end() && it->second.state == Held::State::kUnknown) enqueue(pool, id);
  }
  pump(pool);
}

void SharedHosts::recovered() {
  recovering_ = true;
  note_recovery();
}

void SharedHosts::note_recovery() {
  if (!recovering_ || waiting_ > 0) return;
  for (const auto& [name, pool] : pools_) {
    if (!pool->unknown.empty()) return;
  }
  recovering_ = false;
  BP_LOG(info, "recovery.dispatched", "attempts={} sent={}", attempts_.size(), sent_);
}

void SharedHosts::enqueue(Pool& pool, const Id& id) {
  attempts_[id].state = Held::State::kWaiting;
  pool.waiting.push_back(id);
  ++waiting_;
}

SharedHosts::Host* SharedHosts::room_in(Pool& pool) {
  Host* best = nullptr;
  for (Host* h : pool.hosts) {
    if (!h->greeted || !h->on_record || h->killed || h->held >= h->slots) continue;
    if (!best || h->held < best->held) best = h;
  }
  return best;
}

// Sends what waits as long as there is room.
void SharedHosts::pump(Pool& pool) {
  while (!pool.waiting.empty()) {
    Host* host = room_in(pool);
    if (!host) break;
    const Id id = pool.waiting.front();
    pool.waiting.pop_front();
    --waiting_;
    auto it = attempts_.find(id);
    if (it == attempts_.end() || it->second.state != Held::State::kWaiting) continue;
    send_attempt(id, it->second, *host);
  }
  if (pool.waiting.empty()) {
    pool.full_since_boot_ms = 0;
    if (recovering_) note_recovery();
    return;
  }
  if (pool.full_since_boot_ms == 0) pool.full_since_boot_ms = world_.clock.boot_ms();
  ensure_host(pool);
}

// One is there or on its way; another when all of them were full for a while.
void SharedHosts::ensure_host(Pool& pool) {
  const int64_t now = world_.clock.boot_ms();
  size_t living = 0;
  for (const Host* h : pool.hosts) {
    if (h->killed) continue;
    if (!h->greeted || !h->on_record) return;
    ++living;
  }
  if (living >= kHostsPerPool || now < pool.spawn_after_boot_ms) return;
  if (living > 0 && now - pool.full_since_boot_ms < kCrowdedMs) return;
  spawn(pool);
}

void SharedHosts::spawn(Pool& pool) {
  const std::string id = world_.random.id("s");
  auto process = world_.processes.spawn_host(HostSpec{pool.plugin, id, {}, /*shared=*/true, kSlots, {}});
  if (!process.ok()) {
    BP_LOG(warn, "shared_host.not_started", "plugin={} why={}", pool.plugin,
           process.error().message);
    if (process.error().code == ErrorCode::kNotFound) {
      return refuse_pool(pool, Error{ErrorCode::kPluginLoad, process.error().message, {}});
    }
    pool.spawn_after_boot_ms = world_.clock.boot_ms() + kFirstDelayMs;
    return;
  }
  BP_LOG(info, "shared_host.started", "host={} plugin={} pid={}", id, pool.plugin, process->pid);
  adopt(id, pool, *process, /*fresh=*/true);
  v1::HostHello on_record;
  on_record.set_host_id(id);
  *on_record.mutable_process() = to_wire(*process);
  on_record.set_plugin(pool.plugin);
  on_record.set_plugin_version(pool.version);
  Extra extra;
  extra.meta[kMetaPrefix + id] = on_record.SerializeAsString();
  conductor_.write(std::move(extra), [this, alive = alive_, id] {
    auto it = *alive ? hosts_.find(id) : hosts_.end();
    if (it == hosts_.end()) return;
    it->second->on_record = true;
    pump(*it->second->pool);
  });
}

void SharedHosts::adopt(const std::string& host_id, Pool& pool, const ProcessId& process,
                        bool fresh) {
  auto host = std::make_unique<Host>();
  host->id = host_id;
  host->pool = &pool;
  host->process = process;
  host->fresh = fresh;
  host->on_record = !fresh;
  host->heard_boot_ms = world_.clock.boot_ms();
  pool.hosts.push_back(host.get());
  hosts_[host_id] = std::move(host);
  world_.processes.watch(process, [this, alive = alive_, host_id](std::string how) {
    if (*alive) gone(host_id, how);
  });
  if (!sweep_timer_) sweep_timer_ = world_.executor.after(kSweepMs, [this] { sweep(); });
}

// Proof of death: nothing that it had goes on.
void SharedHosts::gone(const std::string& host_id, const std::string& how) {
  auto it = hosts_.find(host_id);
  if (it == hosts_.end()) return;
  std::unique_ptr<Host> host = std::move(it->second);
  hosts_.erase(it);
  Pool& pool = *host->pool;
  std::erase(pool.hosts, host.get());
  std::vector<Id> had;
  for (auto& [id, held] : attempts_) {
    if (held.host == host.get()) had.push_back(id);
  }
  BP_LOG(info, "shared_host.gone", "host={} plugin={} pid={} attempts={} how={}", host_id,
         pool.plugin, host->process.pid, had.size(), how);
  for (const Id& id : had) {
    auto held = attempts_.extract(id);
    lose(id, held.mapped(), how, /*host_died=*/true);
  }
  Extra extra;
  extra.drop_meta.push_back(kMetaPrefix + host_id);
  conductor_.write(std::move(extra), [] {});
  const bool idle = had.empty() && host->ended > 0;  // it had nothing to do for long: as agreed
  pool.deaths = idle || host->ended > 0 ? 0 : pool.deaths + 1;
  pool.spawn_after_boot_ms =
      pool.deaths == 0 ? 0 : world_.clock.boot_ms() + (kFirstDelayMs << std::min(pool.deaths, 6u));
  if (pool.deaths >= kDeathsMax && pool.hosts.empty()) {
    for (const Id& id : std::exchange(pool.waiting, {})) {
      --waiting_;
      auto held = attempts_.extract(id);
      if (!held.empty()) lose(id, held.mapped(), how, /*host_died=*/true);
    }
  }
  release_unknown(pool);
}

// The plugin cannot be had: nothing of this pool can run.
void SharedHosts::refuse_pool(Pool& pool, const Error& error) {
  std::vector<Id> all;
  for (const auto& [id, held] : attempts_) {
    if (held.pool == &pool && held.state != Held::State::kResult) all.push_back(id);
  }
  waiting_ -= pool.waiting.size();
  pool.waiting.clear();
  pool.unknown.clear();
  for (const Id& id : all) fail(id, error);
}

void SharedHosts::act(const core::CancelAttempt& a) {
  auto it = attempts_.find(id_of(a.ref));
  if (it == attempts_.end()) {
    // Nobody has it, and nobody will get it.
    v1::Event event;
    auto* e = event.mutable_lost();
    e->set_stage(a.ref.stage);
    e->set_map_index(a.ref.map_index);
    *e->mutable_epoch() = a.ref.epoch;
    e->set_reason("it was not begun");
    feed(a.ref.run_number, std::move(event));
    return;
  }
  Held& held = it->second;
  if (held.state == Held::State::kWaiting) {
    auto mine = attempts_.extract(it);
    return lose(id_of(a.ref), mine.mapped(), "it was not begun", /*host_died=*/false);
  }
  held.cancel = std::make_unique<v1::CancelAttempt>();
  held.cancel->set_deadline_ms(std::max<int64_t>(0, a.deadline_boot_ms - world_.clock.boot_ms()));
  held.cancel->set_reason(a.reason);
  if (held.state != Held::State::kSent) return;
  v1::StageMessage m;
  const auto* run = conductor_.find(a.ref.run_number);
  const auto* stage = run ? run->find(a.ref.key) : nullptr;
  if (!stage) return;
  *m.mutable_ref() = ref_of(*run, *stage);
  *m.mutable_cancel() = *held.cancel;
  append(*held.host, m);
}

// The others that it had run again.
void SharedHosts::act(const core::KillHost& a) {
  auto it = attempts_.find(id_of(a.ref));
  if (it == attempts_.end() || !it->second.host) {
    core::CancelAttempt cancel{a.ref, a.reason, 0, 0};
    if (it == attempts_.end() || it->second.state == Held::State::kWaiting) act(cancel);
    return;
  }
  Host& host = *it->second.host;
  BP_LOG(info, "shared_host.kill", "host={} run={} stage={} attempts={} why={}", host.id,
         a.ref.run_id, a.ref.stage, host.held, a.reason);
  host.killed = true;
  world_.processes.kill(host.process);
}

void SharedHosts::act(const core::AckResult& a) {
  const Id id = id_of(a.ref);
  auto it = attempts_.find(id);
  if (it == attempts_.end()) {
    auto s = strangers_.find(id);
    if (s == strangers_.end()) return;
    auto host = hosts_.find(s->second.host_id);
    if (host != hosts_.end()) {
      host->second->acks.push_back(s->second.sequence);
      flush_soon();
    }
    strangers_.erase(s);
    return;
  }
  Pool& pool = *it->second.pool;
  if (Host* host = it->second.host) {
    if (it->second.sequence) host->acks.push_back(it->second.sequence);
    ++host->ended;
    flush_soon();
  }
  forget(id);
  if (!pool.waiting.empty()) pump(pool);
}

void SharedHosts::forget(const Id& id) {
  auto it = attempts_.find(id);
  if (it == attempts_.end()) return;
  if (it->second.host) --it->second.host->held;
  attempts_.erase(it);
}

void SharedHosts::fail(const Id& id, const Error& error) {
  auto it = attempts_.find(id);
  if (it == attempts_.end()) return;
  const core::StageKey key = it->second.key;
  forget(id);
  const auto* run = conductor_.find(id.run_number);
  const auto* stage = run ? run->find(key) : nullptr;
  if (!stage || stage->epoch.counter != id.epoch_counter) return;
  v1::Event event;
  auto* e = event.mutable_ended();
  e->set_stage(run->stage_name(key));
  e->set_map_index(key.map_index);
  *e->mutable_epoch() = to_wire(stage->epoch);
  e->set_retriable(error.retriable());
  *e->mutable_error() = to_wire(error);
  feed(id.run_number, std::move(event));
}

void SharedHosts::lose(const Id& id, const Held& held, const std::string& reason, bool host_died) {
  const auto* run = conductor_.find(id.run_number);
  const auto* stage = run ? run->find(held.key) : nullptr;
  if (!stage || stage->epoch.counter != id.epoch_counter) return;
  v1::Event event;
  auto* e = event.mutable_lost();
  e->set_stage(run->stage_name(held.key));
  e->set_map_index(held.key.map_index);
  *e->mutable_epoch() = to_wire(stage->epoch);
  e->set_reason(reason);
  e->set_shared_host_died(host_died);
  feed(id.run_number, std::move(event));
}

bool SharedHosts::feed(uint64_t run_number, v1::Event&& event, Extra extra) {
  Status fed = conductor_.feed(run_number, std::move(event), {}, std::move(extra));
  if (!fed.ok())
    BP_LOG(debug, "event.refused", "run_number={} why={}", run_number, fed.error().message);
  return fed.ok();
}

}  // namespace bp::shell
