#include "runtime/head/group_state.h"

#include <sodium.h>

#include "engine/base/log.h"
#include "runtime/comm/tcp_handshake.h"

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
  if (parsed->has_hello()) return hello(in.peer.routing_id, parsed->hello());
  JoinedRank* member = members.find(in.peer.routing_id);
  if (!member) return;  // of a connection that was replaced
  handle(*member, static_cast<uint32_t>(member - members.all().data()), *parsed);
}

void RankGroup::Impl::handle(JoinedRank& member, uint32_t rank, v1::RankMessage& m) {
  member.seen_ns = monotonic_ns();
  switch (m.body_case()) {
    case v1::RankMessage::kLoad:
      if (member.state == JoinedRank::State::kJoined) member.state = JoinedRank::State::kLoading;
      member.bytes_loaded = m.load().bytes_done();
      member.bytes_total = m.load().bytes_total();
      break;
    case v1::RankMessage::kReady: return ready(rank, m.ready());
    case v1::RankMessage::kStepResult: return result(rank, *m.mutable_step_result());
    case v1::RankMessage::kFailure: return failure(rank, m.failure());
    case v1::RankMessage::kLeaseAck:
      if (m.lease_ack().number() <= lease_number) {
        member.lease_acked = std::max(member.lease_acked, m.lease_ack().number());
      }
      break;
    default: break;  // nothing that a rank may say
  }
}

void RankGroup::Impl::hello(const std::string& routing_id, const v1::RankHello& h) {
  auto admission = members.admit(routing_id, h);
  switch (admission.verdict) {
    case GroupMembers::Verdict::kRefused:
      BP_LOG(warn, "rank.refused", "epoch={} {}", members.epoch().to_string(), admission.reason);
      tell_end(routing_id, members.epoch(), admission.reason);
      return;
    case GroupMembers::Verdict::kMisfit:
      tell_end(routing_id, members.epoch(), admission.reason);
      broken({ErrorCode::kProtocol, admission.reason, {}});
      return;
    case GroupMembers::Verdict::kJoined:
      BP_LOG(info, "rank.joined", "epoch={} rank={} node={} pid={} data={}", members.epoch().to_string(),
             h.rank(), h.node_id(), h.process().pid(), h.data_endpoint());
      members.all()[h.rank()].seen_ns = monotonic_ns();
      if (members.all_at_least(JoinedRank::State::kJoined)) welcome_all();
      return;
    case GroupMembers::Verdict::kKnown:
      members.all()[h.rank()].seen_ns = monotonic_ns();
      if (phase != Phase::kForming) send_welcome(h.rank());
      return;
  }
}

void RankGroup::Impl::welcome_all() {
  phase = Phase::kLoading;
  std::string key(kDataKeyBytes, '\0');
  randombytes_buf(key.data(), key.size());
  data_key = Secret(std::move(key));
  for (uint32_t r = 0; r < members.all().size(); ++r) send_welcome(r);
  next_beat_ns = 0;
}

void RankGroup::Impl::send_welcome(uint32_t rank) {
  v1::RankMessage m = message();
  auto* w = m.mutable_welcome();
  for (auto& peer : members.all()) *w->add_peers() = peer.hello;
  w->set_data_key(data_key.reveal());
  w->set_lease_ms(options.lease_ms);
  std::string bytes = m.SerializeAsString();
  Status sent = router->send(members.all()[rank].routing_id, bytes);
  sodium_memzero(w->mutable_data_key()->data(), w->mutable_data_key()->size());
  sodium_memzero(bytes.data(), bytes.size());
  if (!sent.ok()) {
    members.all()[rank].state = JoinedRank::State::kLost;
    broken({ErrorCode::kPeerLost, members.label(rank) + " went away before it was welcome", {}});
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
  if (!members.all_at_least(JoinedRank::State::kLoaded)) return;
  phase = Phase::kServing;
  RankGroupEvent e;
  e.kind = RankGroupEvent::Kind::kServing;
  e.epoch = members.epoch();
  events.push_back(std::move(e));
}

void RankGroup::Impl::result(uint32_t rank, v1::StepResult& r) {
  if (rank != result_rank || phase != Phase::kServing) return;
  if (r.number() != steps_done + 1 || r.number() > steps_sent) {
    return broken({ErrorCode::kProtocol,
                   members.label(rank) + " answered step " + std::to_string(r.number()) + " where step " +
                       std::to_string(steps_done + 1) + " was expected",
                   {}});
  }
  ++steps_done;
  sent_ns.erase(sent_ns.begin());
  RankGroupEvent e;
  e.kind = RankGroupEvent::Kind::kStepDone;
  e.epoch = members.epoch();
  e.result = std::move(r);
  events.push_back(std::move(e));
}

void RankGroup::Impl::failure(uint32_t rank, const v1::RankFailure& f) {
  members.all()[rank].state = JoinedRank::State::kLost;
  broken(from_info(f.error()).with_context(members.label(rank) + " failed at step " + std::to_string(f.step())));
}

// Renews every lease. A rank whose connection is gone is lost: steps may have been lost with it.
void RankGroup::Impl::beat() {
  ++lease_number;
  for (uint32_t r = 0; r < members.all().size() && alive(); ++r) {
    JoinedRank& member = members.all()[r];
    v1::RankMessage m = message();
    m.mutable_lease()->set_number(lease_number);
    m.mutable_lease()->set_lease_ms(options.lease_ms);
    m.mutable_lease()->set_acked(member.lease_acked);
    if (!router->send(member.routing_id, m.SerializeAsString()).ok()) {
      member.state = JoinedRank::State::kLost;
      broken({ErrorCode::kPeerLost, members.label(r) + " broke its connection to the head", {}});
    }
  }
}

void RankGroup::Impl::check_lost(int64_t now) {
  for (uint32_t r = 0; r < members.all().size() && alive(); ++r) {
    JoinedRank& m = members.all()[r];
    if (m.state == JoinedRank::State::kMissing || now - m.seen_ns < kLostAfterBeats * beat_ns()) continue;
    m.state = JoinedRank::State::kLost;
    broken({ErrorCode::kPeerLost,
            members.label(r) + " was silent for " + std::to_string((now - m.seen_ns) / kNsPerMs) + " ms", {}});
  }
  if (alive() && !sent_ns.empty() && now - sent_ns.front() > options.step_deadline_ms * kNsPerMs) {
    broken({ErrorCode::kDeadlineExceeded,
            "step " + std::to_string(steps_done + 1) + " was not done within " +
                std::to_string(options.step_deadline_ms) + " ms; waited for " + members.label(result_rank),
            {}});
  }
}

int64_t RankGroup::Impl::next_due() const {
  int64_t due = monotonic_ns() + beat_ns();
  if (phase == Phase::kLoading || phase == Phase::kServing) due = std::min(due, next_beat_ns);
  if (alive()) {
    for (auto& m : members.all()) {
      if (m.state != JoinedRank::State::kMissing) due = std::min(due, m.seen_ns + kLostAfterBeats * beat_ns());
    }
    if (!sent_ns.empty()) due = std::min(due, sent_ns.front() + options.step_deadline_ms * kNsPerMs);
  }
  return due;
}

}  // namespace bp::rt
