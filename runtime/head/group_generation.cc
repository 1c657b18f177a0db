// Generations of a group: a lost rank is replaced within its epoch. The ranks that live keep weights and KV, the
// new one maps those of the dead one, and only the steps that nobody has answered are done again.
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "runtime/comm/tcp_handshake.h"
#include "runtime/head/group_state.h"

namespace bp::rt {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

bool has_ended(const Fd& pidfd) {
  pollfd p{pidfd.get(), POLLIN, 0};
  return pidfd && ::poll(&p, 1, 0) > 0;
}

}  // namespace

// A rank on another host has no door: its connection, its silence and its node tell of its end.
void RankGroup::Impl::open_door(uint32_t rank) {
  const v1::RankHello& h = members.all()[rank].hello;
  Door& door = doors[rank];
  door.steps.reset();
  if (h.host_identity() != host) return;
  const ProcessId id{h.process().pid(), h.process().start_ticks(), h.process().boot_id()};
  if (!door.pidfd) {
    auto watch = process_watch(id);
    if (!watch.ok()) {
      return lost(rank, {ErrorCode::kPeerLost, members.label(rank) + " ended right after its hello", {}}, false);
    }
    door.pidfd = std::move(*watch);
  }
  auto steps = HeadStepEnd::open(id, h.steps().memory_fd(), h.steps().bell_fd(), h.steps().nonce());
  if (steps.ok()) {
    door.steps = std::move(*steps);
  } else {
    BP_LOG(warn, "steps.over_socket", "rank={} because {}", rank, steps.error().to_string());
  }
}

void RankGroup::Impl::look_for_dead() {
  for (uint32_t r = 0; r < doors.size() && alive(); ++r) {
    if (!has_ended(doors[r].pidfd)) continue;
    lost(r, {ErrorCode::kPeerLost,
             members.label(r) + " (process " + std::to_string(members.all()[r].hello.process().pid()) +
                 ") ended at step " + std::to_string(steps_done + 1), {}}, false);
  }
}

/// `spoilt`: what it wrote or answered cannot be believed. A rank that still lives is killed where we can reach
/// it; elsewhere its lease lapses, and its node kills it.
void RankGroup::Impl::lost(uint32_t rank, Error why, bool spoilt) {
  if (!alive()) return;
  Door& door = doors[rank];
  if (door.pidfd && !has_ended(door.pidfd)) {
    spoilt = true;
    BP_LOG(warn, "rank.killed", "rank={} pid={} because {}", rank, members.all()[rank].hello.process().pid(),
           why.message);
    ::syscall(SYS_pidfd_send_signal, door.pidfd.get(), SIGKILL, nullptr, 0);
  } else if (!door.pidfd) {
    tell_end(members.all()[rank].routing_id, members.epoch(), why.message);
  }
  door = {};
  kv_suspect |= spoilt;
  members.forget(rank);
  if (phase == Phase::kForming && regroup_since_ns == 0) {   // nobody was welcome yet: its place is free again
    BP_LOG(warn, "rank.lost", "epoch={} {}", members.epoch().to_string(), why.message);
    return;
  }
  regroup(std::move(why));
}

void RankGroup::Impl::regroup(Error why) {
  if (++regroups_in_vain > kRegroupsInVain) {
    return broken(std::move(why).with_context(std::to_string(kRegroupsInVain) + " generations in a row did no step"));
  }
  const int64_t now = monotonic_ns();
  if (regroup_since_ns == 0) {
    regroup_since_ns = now;
    regroup_why = why;
  }
  regroup_until_ns = now + kRegroupMs * kNsPerMs;
  phase = Phase::kForming;
  members.regroup();
  BP_LOG(warn, "group.regroups", "epoch={} generation={} uncommitted={} because {}", members.epoch().to_string(),
         members.generation(), uncommitted.size(), why.to_string());
  for (uint32_t r = 0; r < members.all().size(); ++r) {
    doors[r].steps.reset();
    if (members.all()[r].state == JoinedRank::State::kMissing) continue;
    v1::RankMessage m = message();
    m.mutable_regroup()->set_generation(members.generation());
    m.mutable_regroup()->set_reason(why.message);
    // A connection that is gone is seen at the next beat.
    (void)router->send(members.all()[r].routing_id, m.SerializeAsString());
  }
}

void RankGroup::Impl::welcome_all() {
  kv_kept = kv_pool != 0 && !kv_suspect &&
            std::all_of(members.all().begin(), members.all().end(),
                        [&](const JoinedRank& m) { return m.hello.kv_pool() == kv_pool; });
  if (!kv_kept) {
    rebuild = served;
    kv_suspect = false;
    do randombytes_buf(&kv_pool, sizeof kv_pool); while (kv_pool == 0);
    forget_steps();
  }
  phase = Phase::kLoading;
  std::string key(kDataKeyBytes, '\0');
  randombytes_buf(key.data(), key.size());
  data_key = Secret(std::move(key));
  const uint64_t generation = members.generation();
  for (uint32_t r = 0; r < members.all().size(); ++r) {
    send_welcome(r);
    if (!alive() || members.generation() != generation) return;
  }
  next_beat_ns = 0;
}

void RankGroup::Impl::send_welcome(uint32_t rank) {
  v1::RankMessage m = message();
  auto* w = m.mutable_welcome();
  for (auto& peer : members.all()) *w->add_peers() = peer.hello;
  w->set_data_key(data_key.reveal());
  w->set_lease_ms(options.lease_ms);
  w->set_generation(members.generation());
  w->set_first_step(steps_done + 1);
  w->set_kv_pool(kv_pool);
  w->set_kv_kept(kv_kept);
  w->set_direct_steps(doors[rank].steps != nullptr);
  std::string bytes = m.SerializeAsString();
  Status sent = router->send(members.all()[rank].routing_id, bytes);
  sodium_memzero(w->mutable_data_key()->data(), w->mutable_data_key()->size());
  sodium_memzero(bytes.data(), bytes.size());
  members.all()[rank].welcomed = true;
  if (sent.ok()) return;
  lost(rank, {ErrorCode::kPeerLost, members.label(rank) + " went away before it was welcome", {}}, false);
}

void RankGroup::Impl::all_loaded() {
  phase = Phase::kServing;
  const int64_t now = monotonic_ns();
  if (regroup_since_ns != 0) {
    BP_LOG(info, "group.whole", "epoch={} generation={} after_ms={} kv={} steps_again={}", members.epoch().to_string(),
           members.generation(), (now - regroup_since_ns) / kNsPerMs, rebuild ? "rebuilt" : "kept", uncommitted.size());
  }
  RankGroupEvent e;
  e.epoch = members.epoch();
  if (rebuild) {
    e.kind = RankGroupEvent::Kind::kBroken;
    e.error = regroup_why;
    events.push_back(e);
    e.error = {};
  }
  if (rebuild || !served) {
    e.kind = RankGroupEvent::Kind::kServing;
    events.push_back(e);
  }
  served = true;
  rebuild = false;
  regroup_since_ns = 0;
  for (size_t i = 0; i < uncommitted.size() && phase == Phase::kServing; ++i) send_to_all(uncommitted[i]);
}

void RankGroup::Impl::forget_steps() {
  steps_sent = steps_done = 0;
  uncommitted.clear();
}

Status RankGroup::Impl::send_to(uint32_t rank, const SentStep& step) {
  if (doors[rank].steps) return doors[rank].steps->send(step.bytes);
  v1::RankMessage m = message();
  if (!m.mutable_step()->ParseFromString(step.bytes)) return Error{ErrorCode::kInternal, "a step of ours is none", {}};
  return router->send(members.all()[rank].routing_id, m.SerializeAsString());
}

void RankGroup::Impl::send_to_all(SentStep& step) {
  step.sent_ns = monotonic_ns();
  for (uint32_t r = 0; r < members.all().size(); ++r) {
    Status sent = send_to(r, step);
    if (sent.ok()) continue;
    return lost(r, {ErrorCode::kPeerLost, members.label(r) + " could not be given step " + std::to_string(step.number) +
                                              ": " + sent.error().message, {}}, false);
  }
}

}  // namespace bp::rt
