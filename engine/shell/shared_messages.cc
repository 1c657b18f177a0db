// What shared hosts say, and what they are told.
#include <algorithm>
#include <unordered_set>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/shell/shared_host.h"
#include "engine/shell/stage_events.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {
constexpr size_t kBatchBytes = 1 << 20;
constexpr size_t kStrangersMax = 100'000;

void append_varint(std::string& out, uint64_t v) {
  for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
  out += static_cast<char>(v);
}

core::Attempt attempt_of(const v1::AttemptRef& m, uint64_t run_number, core::StageKey key) {
  core::Attempt a;
  a.run_id = m.run_id();
  a.run_number = run_number;
  a.stage = m.stage();
  a.key = key;
  a.map_index = m.map_index();
  a.attempt = m.attempt();
  a.epoch = m.epoch();
  a.shared = true;
  return a;
}
}  // namespace

v1::AttemptRef SharedHosts::ref_of(const core::RunState& run,
                                   const core::StageInstance& stage) const {
  v1::AttemptRef r;
  r.set_run_id(run.run_id);
  r.set_stage(run.stage_name(stage.key));
  r.set_map_index(stage.key.map_index);
  r.set_attempt(stage.attempt);
  *r.mutable_epoch() = to_wire(stage.epoch);
  return r;
}

void SharedHosts::send_attempt(const Id& id, Held& held, Host& host) {
  const auto* run = conductor_.find(id.run_number);
  const auto* stage = run ? run->find(held.key) : nullptr;
  if (!stage || stage->epoch.counter != id.epoch_counter || !core::has_live_attempt(*stage)) {
    attempts_.erase(id);
    return;
  }
  auto attempt = maker_.make(*run, held.key, /*with_options=*/false);
  if (!attempt.ok()) return fail(id, attempt.error());
  v1::StageMessage m;
  *m.mutable_ref() = ref_of(*run, *stage);
  m.mutable_run()->Swap(&*attempt);
  if (!held.host) ++host.held;
  held.host = &host;
  held.state = Held::State::kSent;
  held.sent_boot_ms = held.heard_boot_ms = world_.clock.boot_ms();
  if (++sent_ == 1) BP_LOG(info, "attempt.first_sent", "host={}", host.id);
  append(host, m);
  if (held.cancel) {
    m.clear_run();
    *m.mutable_cancel() = *held.cancel;
    append(host, m);
  }
}

// Field 1 of StageBatch, one element after the other: the same bytes as of the whole message.
void SharedHosts::append(Host& host, const v1::StageMessage& message) {
  v1::StageMessage sequence;
  sequence.set_sequence(++sequence_);
  host.out += '\x0a';
  append_varint(host.out, message.ByteSizeLong() + sequence.ByteSizeLong());
  message.AppendToString(&host.out);
  sequence.AppendToString(&host.out);
  if (host.out.size() > kBatchBytes) send_now(host);
  flush_soon();
}

void SharedHosts::flush_soon() {
  if (flush_posted_) return;
  flush_posted_ = true;
  world_.executor.post([this, alive = alive_] {
    if (*alive) flush();
  });
}

void SharedHosts::flush() {
  flush_posted_ = false;
  for (auto& [id, host] : hosts_) send_now(*host);
}

void SharedHosts::send_now(Host& host) {
  if (host.out.empty() && host.acks.empty()) return;
  if (!host.acks.empty()) {
    std::string packed;
    packed.reserve(host.acks.size() * 4);
    for (const uint64_t ack : host.acks) append_varint(packed, ack);
    host.out += '\x12';
    append_varint(host.out, packed.size());
    host.out += packed;
    host.acks.clear();
  }
  world_.transport.send(Channel::kStages, host.id, host.out);
  host.out.clear();
}

void SharedHosts::on_message(const bus::Peer& peer, const v1::StageBatch& batch) {
  auto it = hosts_.find(peer.routing_id);
  if (it != hosts_.end()) it->second->heard_boot_ms = world_.clock.boot_ms();
  for (const auto& m : batch.messages()) {
    if (m.has_result()) {
      // The batch is the caller's and dies with this call: its results are moved out of it.
      on_result(peer, const_cast<v1::StageMessage&>(m));
      continue;
    }
    if (it == hosts_.end()) continue;
    if (m.has_hello()) {
      on_hello(*it->second, m.hello(), m.sequence());
      it = hosts_.find(peer.routing_id);
      continue;
    }
    const auto* run = m.has_ref() ? conductor_.find(m.ref().run_id()) : nullptr;
    if (!run) continue;
    const Id id{run->run_number, m.ref().epoch().counter()};
    auto held = attempts_.find(id);
    if (held == attempts_.end() || held->second.host != it->second.get()) continue;
    held->second.heard_boot_ms = it->second->heard_boot_ms;
    if (m.has_beat()) {
      on_beat(id, held->second, m.beat());
    } else {
      hooks_.call(peer.routing_id, attempt_of(m.ref(), run->run_number, held->second.key), m);
    }
  }
}

void SharedHosts::on_hello(Host& host, const v1::HostHello& hello, uint64_t sequence) {
  const Pool& pool = *host.pool;
  if (hello.has_load_error() || (pool.version != 0 && hello.plugin_version() != pool.version)) {
    const Error why = hello.has_load_error()
                          ? Error{error_code_from_name(hello.load_error().code()),
                                  hello.load_error().message(), hello.load_error().remedy()}
                          : Error{ErrorCode::kPluginLoad,
                                  "plugin " + hello.plugin() + " has version " +
                                      std::to_string(hello.plugin_version()) +
                                      "; the workflow asks for " + std::to_string(pool.version),
                                  {}};
    host.killed = true;
    world_.processes.kill(host.process);
    return refuse_pool(*host.pool, why);
  }
  host.slots = std::max(1u, hello.slots());
  host.greeted = true;
  v1::StageMessage ack;
  auto& options = *ack.mutable_hello_ack()->mutable_options();
  for (const auto& [name, value] : maker_.options()) options[name] = value;
  ack.mutable_hello_ack()->set_hello_sequence(sequence);
  append(host, ack);
  take_holds(host, hello);
  release_unknown(*host.pool);
}

// What it has, against what it ought to have.
void SharedHosts::take_holds(Host& host, const v1::HostHello& hello) {
  std::unordered_set<Id, Hash> holds;
  for (const auto& ref : hello.holds()) {
    const auto* run = conductor_.find(ref.run_id());
    const auto* stage = run ? run->find(ref.stage(), ref.map_index()) : nullptr;
    if (!stage || !core::has_live_attempt(*stage) || !same_epoch(ref.epoch(), stage->epoch)) {
      v1::StageMessage m;  // over for us: it is to end (a result is said again, and acknowledged)
      *m.mutable_ref() = ref;
      m.mutable_cancel()->set_reason("it is over");
      append(host, m);
      continue;
    }
    const Id id{run->run_number, ref.epoch().counter()};
    holds.insert(id);
    Held& held = add(attempt_of(ref, run->run_number, stage->key), *host.pool);
    if (held.host == &host) continue;
    if (held.host) {
      BP_LOG(err, "attempt.in_two_hosts", "run={} stage={} hosts={},{}", run->run_id, ref.stage(),
             held.host->id, host.id);
      continue;
    }
    held.host = &host;
    ++host.held;
    held.state = Held::State::kSent;
    held.sent_boot_ms = held.heard_boot_ms = world_.clock.boot_ms();
  }
  // The host takes nothing between its hello and our answer: what it does not hold it will not
  // have.
  std::vector<Id> missing;
  for (const auto& [id, held] : attempts_) {
    if (held.host == &host && held.state == Held::State::kSent && !holds.count(id))
      missing.push_back(id);
  }
  for (const Id& id : missing) send_attempt(id, attempts_.at(id), host);
}

void SharedHosts::on_result(const bus::Peer& peer, v1::StageMessage& m) {
  const auto* run = conductor_.find(m.ref().run_id());
  auto host = hosts_.find(peer.routing_id);
  if (!run) {
    if (host == hosts_.end()) return;
    host->second->acks.push_back(m.sequence());
    return flush_soon();
  }
  const Id id{run->run_number, m.ref().epoch().counter()};
  auto it = attempts_.find(id);
  if (it == attempts_.end()) {
    if (strangers_.size() > kStrangersMax) strangers_.clear();
    strangers_[id] = {peer.routing_id, m.sequence()};
  } else {
    Held& held = it->second;
    if (held.state == Held::State::kResult) return;  // its commit is under way
    if (host != hosts_.end() && !held.host) {
      held.host = host->second.get();
      ++held.host->held;
    }
    held.state = Held::State::kResult;
    held.sequence = m.sequence();
  }
  Extra extra;
  v1::Event event = ended_event(run, m.ref().stage(), m.ref().map_index(), m.ref().epoch(),
                                std::move(*m.mutable_result()), &extra.blobs);
  if (feed(id.run_number, std::move(event), std::move(extra))) return;
  it = attempts_.find(id);  // refused for now: the host says it again
  if (it != attempts_.end()) it->second.state = Held::State::kSent;
}

void SharedHosts::on_beat(const Id& id, Held& held, const v1::AttemptBeat& beat) {
  if (beat.checkpoint().size() > limits::kCheckpointBytes ||
      beat.handle().size() > limits::kCheckpointBytes ||
      bytes_of(beat.outputs()) > limits::kStageOutputBytes) {
    BP_LOG(warn, "beat.too_large", "run_number={} checkpoint_bytes={} handle_bytes={}",
           id.run_number, beat.checkpoint().size(), beat.handle().size());
    return;
  }
  if (!held.talk) held.talk = std::make_unique<Held::Talk>();
  Held::Talk& talk = *held.talk;
  const auto* run = conductor_.find(id.run_number);
  if (!run) return;
  if (beat.has_progress()) {
    const bool moved = !talk.progress || talk.progress->done() != beat.progress().done() ||
                       talk.progress->note() != beat.progress().note();
    talk.progress = beat.progress();
    if (talk.progress->note().size() > 512) talk.progress->mutable_note()->resize(512);
    if (moved) talk.progress_boot_ms = held.heard_boot_ms;
    hooks_.changed(run->run_id);
  }
  const auto* stage = run->find(held.key);
  if (!stage || stage->epoch.counter != id.epoch_counter) return;
  auto name = [&](auto* e) {
    e->set_stage(run->stage_name(held.key));
    e->set_map_index(held.key.map_index);
    *e->mutable_epoch() = to_wire(stage->epoch);
  };
  const bool checkpoint = !beat.checkpoint().empty() && beat.checkpoint() != talk.checkpoint;
  const bool handle = !beat.handle().empty() && beat.handle() != talk.handle;
  if (checkpoint || handle) {
    v1::Event event;
    auto* e = event.mutable_checkpointed();
    name(e);
    if (checkpoint) e->set_checkpoint(talk.checkpoint = beat.checkpoint());
    if (handle) e->set_handle(talk.handle = beat.handle());
    feed(id.run_number, std::move(event));
  }
  if (!beat.ready() || talk.ready_fed) return;
  talk.ready_fed = true;
  v1::Event event;
  auto* e = event.mutable_ready();
  name(e);
  *e->mutable_outputs() = beat.outputs();
  Extra extra;
  set_beside(e->mutable_outputs(), e->mutable_payloads(), &extra.blobs);
  e->set_handle(beat.handle());
  feed(id.run_number, std::move(event), std::move(extra));
}

const v1::Progress* SharedHosts::progress(const core::RunState& run,
                                          const core::StageInstance& stage) const {
  auto it = attempts_.find({run.run_number, stage.epoch.counter});
  if (it == attempts_.end() || !it->second.talk || !it->second.talk->progress) return nullptr;
  return &*it->second.talk->progress;
}

// Hosts that say nothing, attempts that are to beat and do not, pools that wait for a host.
void SharedHosts::sweep() {
  sweep_timer_ = 0;
  const int64_t now = world_.clock.boot_ms();
  for (auto& [id, host] : hosts_) {
    const int64_t limit = host->greeted ? kSilentMs : kHelloMs;
    if (host->killed || now - host->heard_boot_ms < limit) continue;
    BP_LOG(warn, "shared_host.silent", "host={} pid={} limit_ms={}", id, host->process.pid, limit);
    host->killed = true;
    world_.processes.kill(host->process);
  }
  std::vector<Id> sent;
  for (const auto& [id, held] : attempts_) {
    if (held.state == Held::State::kSent && !held.hung_fed && now - held.heard_boot_ms > kSweepMs)
      sent.push_back(id);
  }
  for (const Id& id : sent) {
    auto it = attempts_.find(id);
    if (it != attempts_.end()) sweep_attempt(id, it->second, now);
  }
  for (auto& [name, pool] : pools_) {
    if (!pool->waiting.empty()) pump(*pool);
  }
  if (!hosts_.empty() || !attempts_.empty())
    sweep_timer_ = world_.executor.after(kSweepMs, [this] { sweep(); });
}

void SharedHosts::sweep_attempt(const Id& id, Held& held, int64_t now) {
  const auto* run = conductor_.find(id.run_number);
  const auto* stage = run ? run->find(held.key) : nullptr;
  if (!stage || stage->epoch.counter != id.epoch_counter) return;
  const v1::StageDefinition& d = run->definition(held.key);
  const int64_t moved =
      held.talk ? std::max(held.talk->progress_boot_ms, held.sent_boot_ms) : held.sent_boot_ms;
  v1::TimerKind kind = v1::TIMER_KIND_UNSPECIFIED;
  if (d.heartbeat_timeout_ms() > 0 && now - held.heard_boot_ms > d.heartbeat_timeout_ms())
    kind = v1::TIMER_KIND_HEARTBEAT;
  else if (d.progress_timeout_ms() > 0 && now - moved > d.progress_timeout_ms())
    kind = v1::TIMER_KIND_PROGRESS;
  if (kind == v1::TIMER_KIND_UNSPECIFIED) return;
  held.hung_fed = true;
  v1::Event event;
  auto* e = event.mutable_timer_fired();
  e->set_stage(run->stage_name(held.key));
  e->set_map_index(held.key.map_index);
  *e->mutable_epoch() = to_wire(stage->epoch);
  e->set_kind(kind);
  feed(id.run_number, std::move(event));
}

}  // namespace bp::shell
