#include "runtime/head/group_state.h"

#include <utility>

#include "engine/base/log.h"

namespace bp::rt {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

Epoch get_epoch(const v1::Epoch& e) { return {e.incarnation(), e.counter()}; }

Error from_info(const v1::ErrorInfo& info) {
  return {error_code_from_name(info.code()), info.message().substr(0, 4096), info.remedy().substr(0, 1024)};
}

}  // namespace

void RankGroup::Impl::tell_end(const std::string& routing_id, Epoch epoch, const std::string& reason) {
  v1::RankMessage m;
  set_epoch(m.mutable_group_epoch(), epoch);
  m.set_sequence(++sequence);
  m.mutable_shutdown()->set_reason(reason);
  (void)router->send(routing_id, m.SerializeAsString());  // one that is gone has ended already
}

void RankGroup::Impl::end_members(const std::string& reason) {
  for (auto& m : members.all()) {
    if (m.state != JoinedRank::State::kMissing) tell_end(m.routing_id, members.epoch(), reason);
  }
}

void RankGroup::Impl::broken(Error why) {
  if (!alive()) return;
  BP_LOG(warn, "group.broken", "epoch={} {}", members.epoch().to_string(), why.to_string());
  phase = Phase::kBroken;
  served = false;
  regroup_since_ns = 0;
  doors.clear();
  error = why;
  end_members("the group broke: " + why.message);
  RankGroupEvent e;
  e.kind = RankGroupEvent::Kind::kBroken;
  e.epoch = members.epoch();
  e.error = std::move(why);
  events.push_back(std::move(e));
}

void RankGroup::Impl::receive(bus::Incoming in) {
  auto parsed = bus::parse<v1::RankMessage>(in.payload);
  if (!parsed.ok()) {
    BP_LOG(warn, "message.refused", "from={} {}", in.peer.user, parsed.error().message);
    return;
  }
  const Epoch epoch = get_epoch(parsed->group_epoch());
  if (phase == Phase::kIdle || epoch > members.epoch()) return;  // it says hello again until it is expected
  if (epoch < members.epoch()) {
    tell_end(in.peer.routing_id, epoch, "epoch " + members.epoch().to_string() + " has taken over");
    return;
  }
  if (phase == Phase::kBroken) {
    tell_end(in.peer.routing_id, epoch, "the group broke: " + error.message);
    return;
  }
  if (parsed->has_hello()) return hello(in.peer.routing_id, parsed->hello(), parsed->generation());
  JoinedRank* member = members.find(in.peer.routing_id);
  if (!member) return;  // of a connection that was replaced
  handle(*member, static_cast<uint32_t>(member - members.all().data()), *parsed);
}

void RankGroup::Impl::handle(JoinedRank& member, uint32_t rank, v1::RankMessage& m) {
  member.seen_ns = monotonic_ns();
  // What a rank did in a generation that is over counts no more. A fresh rank loads before it knows of any.
  const bool now = m.generation() == members.generation();
  switch (m.body_case()) {
    case v1::RankMessage::kLoad:
      if (member.state == JoinedRank::State::kJoined) member.state = JoinedRank::State::kLoading;
      member.bytes_loaded = m.load().bytes_done();
      member.bytes_total = m.load().bytes_total();
      break;
    case v1::RankMessage::kReady: return now ? ready(rank, m.ready()) : void();
    case v1::RankMessage::kStepResult: return now ? result(rank, *m.mutable_step_result()) : void();
    case v1::RankMessage::kFailure: return now || m.generation() == 0 ? failure(rank, m.failure()) : void();
    case v1::RankMessage::kLeaseAck:
      if (m.lease_ack().number() <= lease_number) {
        member.lease_acked = std::max(member.lease_acked, m.lease_ack().number());
      }
      break;
    default: break;  // nothing that a rank may say
  }
}

void RankGroup::Impl::hello(const std::string& routing_id, const v1::RankHello& h, uint64_t generation) {
  auto admission = members.admit(routing_id, h, generation);
  if (admission.verdict == GroupMembers::Verdict::kReplaces) {
    lost(h.rank(), {ErrorCode::kPeerLost, members.label(h.rank()) + " has ended, says its node", {}}, false);
    if (!alive()) return;
    admission = members.admit(routing_id, h, generation);
  }
  switch (admission.verdict) {
    case GroupMembers::Verdict::kReplaces:
    case GroupMembers::Verdict::kLate: return;
    case GroupMembers::Verdict::kRefused:
      BP_LOG(warn, "rank.refused", "epoch={} {}", members.epoch().to_string(), admission.reason);
      tell_end(routing_id, members.epoch(), admission.reason);
      return;
    case GroupMembers::Verdict::kMisfit:
      tell_end(routing_id, members.epoch(), admission.reason);
      broken({ErrorCode::kProtocol, admission.reason, {}});
      return;
    case GroupMembers::Verdict::kJoined:
      BP_LOG(info, "rank.joined", "epoch={} generation={} rank={} node={} pid={} data={}",
             members.epoch().to_string(), members.generation(), h.rank(), h.node_id(), h.process().pid(),
             h.data_endpoint());
      members.all()[h.rank()].seen_ns = monotonic_ns();
      open_door(h.rank());
      if (alive() && members.all_at_least(JoinedRank::State::kJoined)) welcome_all();
      return;
    case GroupMembers::Verdict::kKnown:
      members.all()[h.rank()].seen_ns = monotonic_ns();
      if (phase != Phase::kForming) send_welcome(h.rank());
      return;
  }
}

void RankGroup::Impl::ready(uint32_t rank, const v1::RankReady& r) {
  JoinedRank& member = members.all()[rank];
  if (phase != Phase::kLoading || member.state == JoinedRank::State::kLoaded) return;
  member.state = JoinedRank::State::kLoaded;
  if (member.bytes_total == 0) member.bytes_total = r.weight_bytes();
  member.bytes_loaded = member.bytes_total;
  BP_LOG(info, "rank.loaded", "epoch={} rank={} weights={} kv={} kernels={} reused={}",
         members.epoch().to_string(), rank, r.weight_bytes(), r.kv_bytes(), r.kernels(), r.weights_reused());
  if (members.all_at_least(JoinedRank::State::kLoaded)) all_loaded();
}

void RankGroup::Impl::result(uint32_t rank, v1::StepResult& r) {
  if (rank != result_rank || phase != Phase::kServing) return;
  if (r.number() != steps_done + 1 || uncommitted.empty()) {
    return lost(rank, {ErrorCode::kProtocol,
                       members.label(rank) + " answered step " + std::to_string(r.number()) + " where step " +
                           std::to_string(steps_done + 1) + " was expected", {}}, true);
  }
  ++steps_done;
  uncommitted.pop_front();
  regroups_in_vain = 0;
  RankGroupEvent e;
  e.kind = RankGroupEvent::Kind::kStepDone;
  e.epoch = members.epoch();
  e.result = std::move(r);
  events.push_back(std::move(e));
}

/// Results that came through memory; true when there were some.
bool RankGroup::Impl::take_results() {
  bool any = false;
  std::string bytes;
  while (phase == Phase::kServing && doors[result_rank].steps) {
    auto got = doors[result_rank].steps->try_receive(&bytes);
    if (got.ok() && !*got) break;
    v1::StepResult r;
    any = true;
    if (!got.ok() || !r.ParseFromString(bytes)) {
      lost(result_rank, {ErrorCode::kProtocol, members.label(result_rank) + " sent what is no result of step " +
                                                   std::to_string(steps_done + 1), {}}, true);
      break;
    }
    members.all()[result_rank].seen_ns = monotonic_ns();
    result(result_rank, r);
  }
  return any;
}

// A rank that can go on says so and waits to be told; one whose own step failed ends.
void RankGroup::Impl::failure(uint32_t rank, const v1::RankFailure& f) {
  Error why = from_info(f.error()).with_context(members.label(rank) + " failed at step " + std::to_string(f.step()));
  switch (why.code) {
    case ErrorCode::kPeerLost:
    case ErrorCode::kStaleEpoch:
    case ErrorCode::kCancelled:
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kProtocol:
    case ErrorCode::kUnauthorized: break;
    default: return lost(rank, std::move(why), true);
  }
  const uint64_t generation = members.generation();
  look_for_dead();
  if (!alive() || members.generation() != generation) return;
  // What a peer should not have sent may have harmed what was computed with it.
  kv_suspect |= why.code == ErrorCode::kProtocol || why.code == ErrorCode::kUnauthorized;
  regroup(std::move(why));
}

// Renews every lease. A rank whose connection is gone is lost: steps may have been lost with it.
void RankGroup::Impl::beat() {
  ++lease_number;
  const uint64_t generation = members.generation();
  for (uint32_t r = 0; r < members.all().size() && alive() && members.generation() == generation; ++r) {
    JoinedRank& member = members.all()[r];
    if (!member.welcomed) continue;
    v1::RankMessage m = message();
    m.mutable_lease()->set_number(lease_number);
    m.mutable_lease()->set_lease_ms(options.lease_ms);
    m.mutable_lease()->set_acked(member.lease_acked);
    if (!router->send(member.routing_id, m.SerializeAsString()).ok()) {
      lost(r, {ErrorCode::kPeerLost, members.label(r) + " broke its connection to the head", {}}, false);
    }
  }
}

// A head that was stopped for a while has asked nobody for a sign of life meanwhile.
void RankGroup::Impl::forgive_own_silence(int64_t now) {
  if (now - std::exchange(last_look_ns, now) < beat_ns()) return;
  for (JoinedRank& m : members.all()) m.seen_ns = now;
}

void RankGroup::Impl::check_lost(int64_t now) {
  const uint64_t generation = members.generation();
  for (uint32_t r = 0; r < members.all().size() && alive() && members.generation() == generation; ++r) {
    JoinedRank& m = members.all()[r];
    if (m.state == JoinedRank::State::kMissing || now - m.seen_ns < kLostAfterBeats * beat_ns()) continue;
    lost(r, {ErrorCode::kPeerLost,
             members.label(r) + " was silent for " + std::to_string((now - m.seen_ns) / kNsPerMs) + " ms at step " +
                 std::to_string(steps_done + 1), {}}, true);
  }
  if (alive() && regroup_since_ns != 0 && now >= regroup_until_ns) {
    std::string missing;
    for (uint32_t r = 0; r < members.all().size(); ++r) {
      if (members.all()[r].state == JoinedRank::State::kLoaded) continue;
      missing += (missing.empty() ? "" : ", ") + members.label(r);
    }
    const int64_t waited_ms = (now - regroup_since_ns) / kNsPerMs;
    broken(Error(regroup_why).with_context("waited " + std::to_string(waited_ms) + " ms for " + missing +
                                           " to form generation " + std::to_string(members.generation())));
  }
  if (phase == Phase::kServing && !uncommitted.empty() &&
      now - uncommitted.front().sent_ns > options.step_deadline_ms * kNsPerMs) {
    broken({ErrorCode::kDeadlineExceeded,
            "step " + std::to_string(steps_done + 1) + " was not done within " +
                std::to_string(options.step_deadline_ms) + " ms; waited for " + members.label(result_rank),
            {}});
  }
}

int64_t RankGroup::Impl::next_due() const {
  int64_t due = monotonic_ns() + beat_ns();
  if (!alive()) return due;
  due = std::min(due, next_beat_ns);
  if (regroup_since_ns != 0) due = std::min(due, regroup_until_ns);
  for (auto& m : members.all()) {
    if (m.state != JoinedRank::State::kMissing) due = std::min(due, m.seen_ns + kLostAfterBeats * beat_ns());
  }
  if (phase == Phase::kServing && !uncommitted.empty()) {
    due = std::min(due, uncommitted.front().sent_ns + options.step_deadline_ms * kNsPerMs);
  }
  return due;
}

}  // namespace bp::rt
