#include "runtime/rank/rank_work.h"

#include <fcntl.h>

#include "engine/base/log.h"
#include "runtime/rank/exit_codes.h"

namespace bp::rt {
namespace {

constexpr int64_t kProgressEveryNs = 50'000'000;

bool of_the_group(ErrorCode code) {
  switch (code) {
    case ErrorCode::kPeerLost:
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kStaleEpoch:
    case ErrorCode::kProtocol:
    case ErrorCode::kUnauthorized: return true;
    default: return false;
  }
}

}  // namespace

RankWork::RankWork(const v1::RankConfig& config, const RankFds& fds, RankModel& model, RankLease& lease,
                   Report report)
    : config_(config), fds_(fds), model_(model), lease_(lease), report_(std::move(report)),
      stream_(make_cpu_stream()) {}

Status RankWork::failed(Error error, int exit_status) {
  v1::RankMessage m;
  auto* f = m.mutable_failure();
  f->mutable_error()->set_code(std::string(error_name(error.code)));
  f->mutable_error()->set_message(error.message);
  f->mutable_error()->set_remedy(std::string(error.what_to_do()));
  f->set_step(step_now_);
  report_(std::move(m), exit_status);
  return error;
}

void RankWork::start(const v1::RankWelcome& welcome, DataListener listener, int64_t form_ms) {
  auto door = std::make_shared<DataListener>(std::move(listener));
  stream_->enqueue([this, welcome, door, form_ms]() mutable -> Status {
    Status formed = form(welcome, *door, form_ms);
    door.reset();  // nobody has any business there from now on
    if (!formed.ok()) return failed(std::move(formed).error(), kExitGroup);
    Status loaded = load();
    if (!loaded.ok()) return failed(std::move(loaded).error(), kExitLoad);
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
  BP_ASSIGN(Groups groups, form_groups(o));
  std::lock_guard lock(groups_mutex_);
  groups_ = std::move(groups);
  if (aborted_) return Error{ErrorCode::kStaleEpoch, "aborted", {}};
  BP_LOG(info, "group.formed", "epoch={} rank={} {}; {}", o.epoch.to_string(), o.rank, groups_.tp->describe(),
         groups_.pp->describe());
  return {};
}

Status RankWork::load() {
  BP_ASSIGN(Segment weights, Segment::open(fds_.weights, model_.weights_bytes(), "weights"));
  BP_ASSIGN(Segment kv, Segment::open(fds_.kv, model_.kv_bytes(), "kv"));
  weights_.emplace(std::move(weights));
  kv_.emplace(std::move(kv));
  int64_t next_ns = 0;
  auto progress = [&](uint64_t done, uint64_t total) {
    const int64_t now = monotonic_ns();
    if (now < next_ns && done < total) return;
    next_ns = now + kProgressEveryNs;
    v1::RankMessage m;
    m.mutable_load()->set_bytes_done(done);
    m.mutable_load()->set_bytes_total(total);
    report_(std::move(m), -1);
  };
  bool reused = false;
  BP_ASSIGN(runner_, model_.load({weights_->bytes(), kv_->bytes()}, {groups_.tp.get(), groups_.pp.get()}, progress,
                                 &reused));
  if (weights_->write_sealed() && !reused) {
    return Error{ErrorCode::kConflict, "the weights segment is sealed and holds another slice",
                 "It belongs to another model or layout: the node must make it anew"};
  }
  BP_TRY(weights_->seal_writes());
  BP_LOG(info, "weights.loaded", "rank={} weight_bytes={} kv_bytes={} kernels={} reused={}", config_.rank(),
         weights_->bytes().size(), kv_->bytes().size(), runner_->numerics_class(), reused);
  v1::RankMessage m;
  auto* r = m.mutable_ready();
  r->set_weight_bytes(weights_->bytes().size());
  r->set_kv_bytes(kv_->bytes().size());
  r->set_kernels(runner_->numerics_class());
  r->set_weights_reused(reused);
  report_(std::move(m), -1);
  return {};
}

void RankWork::step(v1::Step step) {
  stream_->enqueue([this, step = std::move(step)]() -> Status {
    step_now_ = step.number();
    if (!lease_.valid(monotonic_ns())) {
      return failed({ErrorCode::kDeadlineExceeded, "the lease lapsed before the step began", {}}, kExitLease);
    }
    Status done = execute(step);
    if (done.ok()) return {};
    const int status = of_the_group(done.error().code) ? kExitGroup : kExitStep;
    return failed(std::move(done).error(), status);
  });
}

Status RankWork::execute(const v1::Step& step) {
  BP_ASSIGN(auto result, runner_->execute(step));
  // One rank speaks for all: tp_rank 0 of the last stage has the tokens.
  if (config_.tp_rank() != 0 || config_.pp_rank() + 1 != config_.plan().pp_size()) return {};
  v1::RankMessage m;
  *m.mutable_step_result() = std::move(result);
  report_(std::move(m), -1);
  return {};
}

void RankWork::abort() {
  std::lock_guard lock(groups_mutex_);
  aborted_ = true;
  if (groups_.tp) groups_.tp->abort();
  if (groups_.pp) groups_.pp->abort();
}

}  // namespace bp::rt
