#include "runtime/rank/rank_work.h"

#include <fcntl.h>

#include "engine/base/log.h"
#include "runtime/rank/exit_codes.h"

namespace bp::rt {
namespace {

constexpr int64_t kProgressEveryNs = 50'000'000;
constexpr int64_t kChannelLookMs = 100;   // how often a rank that waits for steps looks whether it must leave

// Of the group, not of this rank: it may go on in the next generation.
bool of_the_group(ErrorCode code) {
  switch (code) {
    case ErrorCode::kPeerLost:
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kStaleEpoch:
    case ErrorCode::kCancelled:
    case ErrorCode::kProtocol:
    case ErrorCode::kUnauthorized: return true;
    default: return false;
  }
}

}  // namespace

RankWork::RankWork(const v1::RankConfig& config, const RankFds& fds, RankModel& model, RankLease& lease, Hooks hooks)
    : config_(config), fds_(fds), model_(model), lease_(lease), hooks_(std::move(hooks)),
      tp_(config.tp_rank(), config.plan().tp_size()), pp_(config.pp_rank(), config.plan().pp_size()),
      stream_(make_cpu_stream()) {}

void RankWork::failed(const Error& error, int exit_status) {
  broken_ = true;
  v1::RankMessage m;
  m.set_generation(generation_.load());
  auto* f = m.mutable_failure();
  f->mutable_error()->set_code(std::string(error_name(error.code)));
  f->mutable_error()->set_message(error.message);
  f->mutable_error()->set_remedy(std::string(error.what_to_do()));
  f->set_step(step_now_);
  hooks_.report(std::move(m), exit_status);
}

Status RankWork::open(bool kv_trusted) {
  BP_ASSIGN(KvMemory kv, KvMemory::open(fds_.kv, model_.kv_bytes(), kv_trusted));
  kv_.emplace(std::move(kv));
  BP_ASSIGN(Segment weights, Segment::open(fds_.weights, model_.weights_bytes(), "weights"));
  weights_.emplace(std::move(weights));
  if (!weights_->write_sealed()) return {};
  stream_->enqueue([this]() -> Status {
    if (Status loaded = load(); !loaded.ok()) failed(loaded.error(), kExitLoad);
    return {};
  });
  return {};
}

void RankWork::join(const v1::RankWelcome& welcome, DataListener listener, std::shared_ptr<RankStepEnd> channel,
                    int64_t form_ms) {
  generation_.store(welcome.generation());
  {
    std::lock_guard lock(channel_mutex_);
    channel_ = std::move(channel);
  }
  auto door = std::make_shared<DataListener>(std::move(listener));
  stream_->enqueue([this, welcome, door, form_ms]() mutable -> Status {
    if (broken_) return {};   // it could not even load
    Status formed = form(welcome, *door, form_ms);
    door.reset();  // nobody has any business there from now on
    if (!is_now(welcome.generation())) return {};
    if (!formed.ok()) {
      failed(formed.error(), of_the_group(formed.error().code) ? -1 : kExitGroup);
      return {};
    }
    if (!runner_) {
      if (Status loaded = load(); !loaded.ok()) {
        failed(loaded.error(), kExitLoad);
        return {};
      }
    }
    take_kv(welcome);
    say_ready();
    if (welcome.direct_steps()) serve_channel(welcome.generation(), welcome.first_step());
    return {};
  });
}

Status RankWork::form(const v1::RankWelcome& welcome, const DataListener& listener, int64_t form_ms) {
  const auto& plan = config_.plan();
  if (welcome.peers_size() != plan.ranks_size()) {
    return Error{ErrorCode::kProtocol,
                 "the welcome names " + std::to_string(welcome.peers_size()) + " ranks, expected " +
                     std::to_string(plan.ranks_size()),
                 {}};
  }
  GroupsOptions o;
  o.epoch = {config_.group_epoch().incarnation(), config_.group_epoch().counter()};
  o.generation = welcome.generation();
  o.rank = config_.rank();
  for (int r = 0; r < plan.ranks_size(); ++r) {
    const auto& peer = welcome.peers(r);
    if (peer.rank() != static_cast<uint32_t>(r)) {
      return Error{ErrorCode::kProtocol, "the welcome's peers are out of order", {}};
    }
    o.members.push_back({plan.ranks(r).tp_rank(), plan.ranks(r).pp_rank(), peer.node_id(), peer.data_endpoint()});
  }
  o.listener = &listener;
  o.comm_fd = ::fcntl(fds_.comm, F_GETFD) >= 0 ? fds_.comm : -1;
  o.data_key = Secret(welcome.data_key());
  o.deadline = Deadline::in_ms(form_ms);
  o.busy_threads = static_cast<uint32_t>(plan.ranks_size()) * std::max(1u, config_.threads());
  o.cancelled = [this, g = welcome.generation()] { return !is_now(g); };
  BP_ASSIGN(Groups groups, form_groups(o));
  tp_.use(std::move(groups.tp));
  pp_.use(std::move(groups.pp));
  // leave() may have come before there was anything to abort.
  if (o.cancelled()) return Error{ErrorCode::kCancelled, "told to leave the group", {}};
  BP_LOG(info, "group.formed", "epoch={} generation={} rank={} {}; {}", o.epoch.to_string(), o.generation, o.rank,
         tp_.describe(), pp_.describe());
  return {};
}

Status RankWork::load() {
  int64_t next_ns = 0;
  auto progress = [&](uint64_t done, uint64_t total) {
    const int64_t now = monotonic_ns();
    if (now < next_ns && done < total) return;
    next_ns = now + kProgressEveryNs;
    v1::RankMessage m;
    m.set_generation(generation_.load());
    m.mutable_load()->set_bytes_done(done);
    m.mutable_load()->set_bytes_total(total);
    hooks_.report(std::move(m), -1);
  };
  BP_ASSIGN(runner_, model_.load({weights_->bytes(), kv_->pool()}, {&tp_, &pp_}, progress, &reused_));
  if (weights_->write_sealed() && !reused_) {
    return Error{ErrorCode::kConflict, "the weights segment is sealed and holds another slice",
                 "It belongs to another model or layout: the node must make it anew"};
  }
  BP_TRY(weights_->seal_writes());
  BP_LOG(info, "weights.loaded", "rank={} weight_bytes={} kv_bytes={} kernels={} reused={}", config_.rank(),
         weights_->bytes().size(), kv_->size_bytes(), runner_->numerics_class(), reused_);
  return {};
}

void RankWork::take_kv(const v1::RankWelcome& welcome) {
  if (welcome.kv_kept() && kv_->name() == welcome.kv_pool()) {
    runner_->trust_kv();
  } else {
    kv_->set_name(welcome.kv_pool());
  }
}

void RankWork::say_ready() {
  v1::RankMessage m;
  m.set_generation(generation_.load());
  auto* r = m.mutable_ready();
  r->set_weight_bytes(weights_->bytes().size());
  r->set_kv_bytes(kv_->size_bytes());
  r->set_kernels(runner_->numerics_class());
  r->set_weights_reused(reused_);
  hooks_.report(std::move(m), -1);
}

void RankWork::serve_channel(uint64_t generation, uint64_t next_step) {
  std::shared_ptr<RankStepEnd> channel;
  {
    std::lock_guard lock(channel_mutex_);
    channel = channel_;
  }
  std::string bytes;
  v1::Step step;
  while (is_now(generation) && !broken_) {
    auto got = channel->receive(&bytes, Deadline::in_ms(kChannelLookMs));
    if (!got.ok()) return failed(got.error(), -1);
    if (!*got) continue;
    if (!step.ParseFromString(bytes) || step.number() != next_step) {
      return failed({ErrorCode::kProtocol,
                     "step " + std::to_string(next_step) + " was expected from the head, what came is no step or " +
                         std::to_string(step.number()), {}}, -1);
    }
    ++next_step;
    run_step(step);
  }
}

void RankWork::step(v1::Step step) {
  stream_->enqueue([this, g = generation_.load(), step = std::move(step)]() -> Status {
    if (is_now(g) && !broken_) run_step(step);
    return {};
  });
}

void RankWork::run_step(const v1::Step& step) {
  step_now_ = step.number();
  if (!lease_.valid(monotonic_ns())) {
    return failed({ErrorCode::kDeadlineExceeded, "the lease lapsed before the step began", {}}, kExitLease);
  }
  const uint64_t generation = generation_.load();
  Status done = execute(step);
  if (done.ok()) return;
  if (!is_now(generation)) {   // told to leave meanwhile: that is why
    broken_ = true;
    return;
  }
  failed(done.error(), of_the_group(done.error().code) ? -1 : kExitStep);
}

Status RankWork::execute(const v1::Step& step) {
  const uint64_t generation = generation_.load();
  BP_ASSIGN(auto result, runner_->execute(step));
  // One rank speaks for all: tp_rank 0 of the last stage has the tokens.
  if (config_.tp_rank() != 0 || config_.pp_rank() + 1 != config_.plan().pp_size()) return {};
  std::shared_ptr<RankStepEnd> channel;
  {
    std::lock_guard lock(channel_mutex_);
    channel = channel_;
  }
  if (channel) return channel->send(result.SerializeAsString());
  v1::RankMessage m;
  m.set_generation(generation);
  *m.mutable_step_result() = std::move(result);
  hooks_.report(std::move(m), -1);
  return {};
}

void RankWork::stop_waits() {
  tp_.abort();
  pp_.abort();
  std::lock_guard lock(channel_mutex_);
  if (channel_) channel_->interrupt();
}

void RankWork::leave(uint64_t generation) {
  generation_.store(generation);
  stop_waits();
  stream_->enqueue([this, generation]() -> Status {
    tp_.drop();
    pp_.drop();
    {
      std::lock_guard lock(channel_mutex_);
      channel_.reset();
    }
    broken_ = broken_ && !runner_;   // what could not load does not become whole
    hooks_.left(generation);
    return {};
  });
}

void RankWork::abort() {
  generation_.store(UINT64_MAX);
  stop_waits();
}

}  // namespace bp::rt
