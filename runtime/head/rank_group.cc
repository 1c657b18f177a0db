#include "runtime/head/rank_group.h"

#include <sodium.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <mutex>

#include "engine/base/fd.h"
#include "engine/base/log.h"
#include "runtime/comm/rank_protocol.h"
#include "runtime/comm/tcp_handshake.h"
#include "runtime/head/group_members.h"

namespace bp::rt {
namespace {

constexpr int kMessagesPerPoll = 256;
constexpr int64_t kNsPerMs = 1'000'000;

void set_epoch(v1::Epoch* out, Epoch e) {
  out->set_incarnation(e.incarnation);
  out->set_counter(e.counter);
}
Epoch get_epoch(const v1::Epoch& e) { return {e.incarnation(), e.counter()}; }

Error from_info(const v1::ErrorInfo& info) {
  return {error_code_from_name(info.code()), info.message().substr(0, 4096), info.remedy().substr(0, 1024)};
}

}  // namespace

struct RankGroup::Impl {
  enum class Phase { kIdle, kForming, kLoading, kServing, kBroken };

  RankGroupOptions options;
  std::unique_ptr<bus::Router> router;
  Fd wake;
  GroupMembers members;
  // Engine thread writes under `mutex`; other threads read under it.
  mutable std::mutex mutex;
  Phase phase = Phase::kIdle;
  Error error;                     // in kBroken; an empty message after shutdown()
  uint32_t result_rank = 0;        // tp_rank 0 of the last pipeline stage
  Secret data_key;
  uint64_t sequence = 0, lease_number = 0;
  int64_t next_beat_ns = 0;
  uint64_t steps_sent = 0, steps_done = 0;
  std::vector<int64_t> sent_ns;    // of the steps under way, oldest first
  std::vector<RankGroupEvent> events;

  explicit Impl(RankGroupOptions o) : options(std::move(o)), members(options.build_id) {}

  v1::RankMessage message() {
    v1::RankMessage m;
    set_epoch(m.mutable_group_epoch(), members.epoch());
    m.set_sequence(++sequence);
    return m;
  }
  int64_t beat_ns() const { return options.lease_ms * kNsPerMs / kBeatsPerLease; }
  bool alive() const { return phase != Phase::kIdle && phase != Phase::kBroken; }

  void receive(bus::Incoming in);
  void handle(JoinedRank& member, uint32_t rank, v1::RankMessage& m);
  void hello(const std::string& routing_id, const v1::RankHello& h);
  void ready(uint32_t rank, const v1::RankReady& r);
  void result(uint32_t rank, v1::StepResult& r);
  void failure(uint32_t rank, const v1::RankFailure& f);
  void welcome_all();
  void send_welcome(uint32_t rank);
  void tell_end(const std::string& routing_id, Epoch epoch, const std::string& reason);
  void end_members(const std::string& reason);
  void beat();
  void check_lost(int64_t now);
  void broken(Error why);
  int64_t next_due() const;
};

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

RankGroup::RankGroup(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RankGroup::~RankGroup() { shutdown("the head ends"); }
const std::string& RankGroup::endpoint() const { return impl_->router->endpoint(); }

Result<std::unique_ptr<RankGroup>> RankGroup::open(bus::Context& context, RankGroupOptions options) {
  if (options.lease_ms < 40 || options.rank_public_key.empty()) {
    return Error{ErrorCode::kInvalidArgument, "a rank group needs a lease of 40 ms and more, and the ranks' key", {}};
  }
  if (sodium_init() < 0) return Error{ErrorCode::kInternal, "libsodium does not start", {}};
  auto impl = std::make_unique<Impl>(std::move(options));
  impl->wake = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->wake) return errno_error("eventfd", errno);
  bus::ListenOptions listen;
  listen.endpoint = impl->options.endpoint;
  listen.keys = impl->options.keys;
  listen.authorize = [key = impl->options.rank_public_key](std::string_view found) -> std::string {
    return found == key ? "rank" : "";
  };
  listen.handover = false;
  BP_ASSIGN(impl->router, bus::Router::bind(context, std::move(listen)));
  return std::unique_ptr<RankGroup>(new RankGroup(std::move(impl)));
}

Status RankGroup::expect_group(Epoch epoch, const v1::DeploymentPlan& plan) {
  Impl& d = *impl_;
  std::lock_guard lock(d.mutex);
  if (d.phase != Impl::Phase::kIdle) {
    if (epoch == d.members.epoch()) return {};
    if (epoch < d.members.epoch()) {
      return Error{ErrorCode::kStaleEpoch,
                   "group epoch " + epoch.to_string() + " is older than " + d.members.epoch().to_string(), {}};
    }
    d.end_members("epoch " + epoch.to_string() + " takes over");
  }
  const auto ranks = static_cast<uint32_t>(plan.ranks_size());
  if (ranks == 0 || ranks > static_cast<uint32_t>(limits::kRanksMax) || ranks != plan.tp_size() * plan.pp_size()) {
    return Error{ErrorCode::kInvalidArgument,
                 "the plan has " + std::to_string(ranks) + " ranks, expected " + std::to_string(plan.tp_size()) +
                     " x " + std::to_string(plan.pp_size()),
                 {}};
  }
  d.members.expect(epoch, ranks);
  d.result_rank = (plan.pp_size() - 1) * plan.tp_size();
  d.phase = Impl::Phase::kForming;
  d.error = {};
  d.steps_sent = d.steps_done = d.lease_number = 0;
  d.sent_ns.clear();
  d.events.clear();
  BP_LOG(info, "group.expected", "epoch={} ranks={}", epoch.to_string(), ranks);
  return {};
}

std::vector<RankGroupEvent> RankGroup::poll(Deadline deadline) {
  Impl& d = *impl_;
  for (;;) {
    bool woken = false, full = false;
    {
      std::lock_guard lock(d.mutex);
      for (int i = 0; i < kMessagesPerPoll; ++i) {
        auto in = d.router->try_recv();
        if (!in.ok()) break;
        d.receive(std::move(*in));
        full = i + 1 == kMessagesPerPoll;
      }
      const int64_t now = monotonic_ns();
      const bool leasing = d.phase == Impl::Phase::kLoading || d.phase == Impl::Phase::kServing;
      if (leasing && now >= d.next_beat_ns) {
        d.next_beat_ns = now + d.beat_ns();
        d.beat();
      }
      d.check_lost(now);
      uint64_t count;
      woken = ::read(d.wake.get(), &count, sizeof count) > 0;
    }
    if (!d.events.empty() || woken || full || deadline.passed()) return std::exchange(d.events, {});
    bus::wait_any({d.router.get()}, {}, {d.wake.get()},
                  Deadline::at_ns(std::min(deadline.ns(), d.next_due())));
  }
}

void RankGroup::wake() {
  uint64_t one = 1;
  (void)!::write(impl_->wake.get(), &one, sizeof one);
}

Status RankGroup::send_step(const v1::Step& step) {
  Impl& d = *impl_;
  std::lock_guard lock(d.mutex);
  if (d.phase != Impl::Phase::kServing) {
    return Error{ErrorCode::kConflict, "the group of ranks is not serving", {}};
  }
  BP_CHECK(step.number() == d.steps_sent + 1);
  v1::RankMessage m = d.message();
  *m.mutable_step() = step;
  const std::string bytes = m.SerializeAsString();
  for (uint32_t r = 0; r < d.members.all().size(); ++r) {
    JoinedRank& member = d.members.all()[r];
    if (Status sent = d.router->send(member.routing_id, bytes); !sent.ok()) {
      member.state = JoinedRank::State::kLost;
      Error why{ErrorCode::kPeerLost,
                d.members.label(r) + " broke its connection to the head before step " +
                    std::to_string(step.number()), {}};
      d.broken(why);
      return why;
    }
  }
  ++d.steps_sent;
  d.sent_ns.push_back(monotonic_ns());
  return {};
}

void RankGroup::shutdown(const std::string& reason) {
  Impl& d = *impl_;
  std::lock_guard lock(d.mutex);
  if (!d.alive()) return;
  d.end_members(reason);
  d.phase = Impl::Phase::kBroken;
  d.error = {ErrorCode::kCancelled, reason, {}};
}

bool RankGroup::serving() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->phase == Impl::Phase::kServing;
}

void RankGroup::fill_status(v1::HeadStatus* s) const {
  const Impl& d = *impl_;
  std::lock_guard lock(d.mutex);
  set_epoch(s->mutable_group_epoch(), d.members.epoch());
  s->set_ranks_expected(static_cast<uint32_t>(d.members.all().size()));
  s->set_ranks_joined(d.members.count_at_least(JoinedRank::State::kJoined));
  s->set_ranks_loaded(d.members.count_at_least(JoinedRank::State::kLoaded));
  s->set_serving(d.phase == Impl::Phase::kServing);
  s->clear_group_error();
  if (d.phase == Impl::Phase::kBroken) {
    s->mutable_group_error()->set_code(std::string(error_name(d.error.code)));
    s->mutable_group_error()->set_message(d.error.message);
    s->mutable_group_error()->set_remedy(std::string(d.error.what_to_do()));
  }
  s->clear_ranks();
  for (uint32_t r = 0; r < d.members.all().size(); ++r) {
    const JoinedRank& m = d.members.all()[r];
    auto* health = s->add_ranks();
    health->set_rank(r);
    health->set_state(member_state_name(m.state));
    health->set_bytes_loaded(m.bytes_loaded);
    health->set_bytes_total(m.bytes_total);
    *health->mutable_process() = m.hello.process();
  }
}

}  // namespace bp::rt
