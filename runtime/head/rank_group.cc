#include "runtime/head/rank_group.h"

#include <sodium.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/log.h"
#include "runtime/comm/host_identity.h"
#include "runtime/head/group_state.h"

namespace bp::rt {
namespace {
constexpr int kMessagesPerPoll = 256;
}  // namespace

RankGroup::RankGroup(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RankGroup::~RankGroup() { shutdown("the head ends"); }
const std::string& RankGroup::endpoint() const { return impl_->router->endpoint(); }

Result<std::unique_ptr<RankGroup>> RankGroup::open(bus::Context& context, RankGroupOptions options) {
  if (options.lease_ms < 40 || options.rank_public_key.empty()) {
    return Error{ErrorCode::kInvalidArgument, "a rank group needs a lease of 40 ms and more, and the ranks' key", {}};
  }
  if (sodium_init() < 0) return Error{ErrorCode::kInternal, "libsodium does not start", {}};
  auto impl = std::make_unique<Impl>(std::move(options));
  impl->host = host_identity();
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
  d.doors.clear();
  d.doors.resize(ranks);
  d.result_rank = (plan.pp_size() - 1) * plan.tp_size();
  d.phase = Impl::Phase::kForming;
  d.error = {};
  d.lease_number = 0;
  d.served = d.rebuild = d.kv_kept = d.kv_suspect = false;
  d.kv_pool = 0;
  d.regroup_since_ns = 0;
  d.regroups_in_vain = 0;
  d.forget_steps();
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
      (void)d.take_results();
      for (int i = 0; i < kMessagesPerPoll; ++i) {
        auto in = d.router->try_recv();
        if (!in.ok()) break;
        d.receive(std::move(*in));
        full = i + 1 == kMessagesPerPoll;
      }
      const int64_t now = monotonic_ns();
      d.forgive_own_silence(now);
      if (d.alive() && now >= d.next_beat_ns) {
        d.next_beat_ns = now + d.beat_ns();
        d.beat();
      }
      d.check_lost(now);
      uint64_t count;
      woken = ::read(d.wake.get(), &count, sizeof count) > 0;
    }
    if (!d.events.empty() || woken || full || deadline.passed()) return std::exchange(d.events, {});
    wait(deadline);
  }
}

// Sleeps until a socket, a wake-up, a result in memory or the end of a rank, or until something is due.
void RankGroup::wait(Deadline deadline) {
  Impl& d = *impl_;
  HeadStepEnd* steps = d.phase == Impl::Phase::kServing ? d.doors[d.result_rank].steps.get() : nullptr;
  std::vector<int> fds{d.wake.get()};
  if (steps) {
    steps->arm();
    std::lock_guard lock(d.mutex);
    if (d.take_results()) {   // it came between the last look and the arming
      if (d.phase == Impl::Phase::kServing && d.doors[d.result_rank].steps.get() == steps) steps->disarm();
      return;
    }
    fds.push_back(steps->bell_fd());
  }
  const size_t first_pidfd = fds.size() + 1;
  for (const auto& door : d.doors) {
    if (door.pidfd) fds.push_back(door.pidfd.get());
  }
  auto ready = bus::wait_any({d.router.get()}, {}, fds, Deadline::at_ns(std::min(deadline.ns(), d.next_due())));
  if (steps) steps->disarm();
  if (std::none_of(ready.begin(), ready.end(), [&](size_t i) { return i >= first_pidfd; })) return;
  std::lock_guard lock(d.mutex);
  (void)d.take_results();   // what a rank answered before it ended counts
  d.look_for_dead();
}

void RankGroup::wake() {
  uint64_t one = 1;
  (void)!::write(impl_->wake.get(), &one, sizeof one);
}

Status RankGroup::send_step(const v1::Step& step) {
  Impl& d = *impl_;
  std::lock_guard lock(d.mutex);
  if (!d.serves()) return Error{ErrorCode::kConflict, "the group of ranks is not serving", {}};
  if (d.rebuild) return {};   // the engine is about to hear that its steps are void
  BP_CHECK(step.number() == d.steps_sent + 1);
  ++d.steps_sent;
  d.uncommitted.push_back({step.number(), step.SerializeAsString(), monotonic_ns()});
  if (d.phase == Impl::Phase::kServing) d.send_to_all(d.uncommitted.back());   // else when the group is whole again
  if (d.alive()) return {};
  return Error(d.error);
}

void RankGroup::fail(Error why) {
  std::lock_guard lock(impl_->mutex);
  impl_->broken(std::move(why));
}

void RankGroup::shutdown(const std::string& reason) {
  Impl& d = *impl_;
  std::lock_guard lock(d.mutex);
  if (!d.alive()) return;
  d.end_members(reason);
  d.phase = Impl::Phase::kBroken;
  d.served = false;
  d.doors.clear();
  d.error = {ErrorCode::kCancelled, reason, {}};
}

bool RankGroup::serving() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->serves();
}

void RankGroup::fill_status(v1::HeadStatus* s) const {
  const Impl& d = *impl_;
  std::lock_guard lock(d.mutex);
  set_epoch(s->mutable_group_epoch(), d.members.epoch());
  s->set_ranks_expected(static_cast<uint32_t>(d.members.all().size()));
  s->set_ranks_joined(d.members.count_at_least(JoinedRank::State::kJoined));
  s->set_ranks_loaded(d.members.count_at_least(JoinedRank::State::kLoaded));
  s->set_serving(d.serves());
  s->set_group_generation(d.members.generation());
  s->set_regrouping_ms(d.alive() && d.regroup_since_ns ? (monotonic_ns() - d.regroup_since_ns) / 1'000'000 + 1 : 0);
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
