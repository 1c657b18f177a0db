#include "runtime/rank/rank_program.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <mutex>

#include "engine/base/build.h"
#include "engine/base/fd.h"
#include "engine/base/log.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"
#include "runtime/comm/host_identity.h"
#include "runtime/comm/rank_protocol.h"
#include "runtime/rank/exit_codes.h"
#include "runtime/rank/rank_work.h"

namespace bp::rt {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;

class Program {
 public:
  Program(const v1::RankConfig& c, const RankFds& fds, RankModel& model, const RankTimes& times, RankLease lease)
      : config_(c), model_(model), times_(times), lease_(std::move(lease)),
        work_(c, fds, model, lease_,
              {[this](v1::RankMessage m, int status) { report({std::move(m), status, 0}); },
               [this](uint64_t generation) { report({{}, -1, generation}); }}) {}
  Status open();
  int run();
  int exit_status() const { return exit_status_; }

 private:
  struct Reported { v1::RankMessage message; int exit_status; uint64_t left_generation; };

  void report(Reported what);                              // stream's thread
  void send(v1::RankMessage& m);
  Status open_doors();
  SpinPolicy step_spin() const;
  void hello();
  void receive(const std::string& payload);
  void handle(v1::RankMessage& m);
  void welcome(v1::RankMessage& m);
  void regroup(const v1::RankRegroup& r);
  void left(uint64_t generation);
  void lease(const v1::Lease& l);
  void flush();
  void check_time();
  int64_t next_due() const;
  void end(int status, const std::string& why);

  const v1::RankConfig& config_;
  RankModel& model_;
  const RankTimes times_;
  RankLease lease_;
  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::Dealer> dealer_;
  std::optional<DataListener> listener_;  // until we are welcome, as the channel
  std::shared_ptr<RankStepEnd> channel_;
  v1::RankHello hello_;
  Fd wake_;
  std::mutex mutex_;                      // guards reported_
  std::deque<Reported> reported_;
  uint64_t sequence_ = 0, last_step_ = 0;
  enum class Phase { kHello, kJoined, kLeaving };
  Phase phase_ = Phase::kHello;
  uint64_t generation_ = 0;               // 0: not told yet
  int64_t hello_since_ns_ = monotonic_ns(), next_hello_ns_ = 0;
  int64_t welcome_ns_ = 0, lease_ms_ = 0; // of the first welcome
  int exit_status_ = -1;
  RankWork work_;                         // last: its thread reports to the above
};

Status Program::open() {
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return errno_error("eventfd", errno);
  BP_ASSIGN(ProcessId me, process_identity(::getpid()));
  hello_.set_rank(config_.rank());
  hello_.mutable_process()->set_pid(me.pid);
  hello_.mutable_process()->set_start_ticks(me.start_ticks);
  hello_.mutable_process()->set_boot_id(me.boot_id);
  hello_.set_host_identity(host_identity());
  hello_.set_build_id(build_id());
  hello_.set_numerics_class(model_.numerics_class());
  hello_.set_protocol(kRankProtocol);
  hello_.set_node_id(config_.node_id());
  hello_.set_model_key(model_.model_key());
  const Predecessor before = predecessor();
  if (before.process.pid != 0) {
    hello_.mutable_replaces()->set_pid(before.process.pid);
    hello_.mutable_replaces()->set_start_ticks(before.process.start_ticks);
    hello_.mutable_replaces()->set_boot_id(before.process.boot_id);
  }
  BP_TRY(open_doors());
  if (Status opened = work_.open(before.memory_whole); !opened.ok()) {
    exit_status_ = kExitLoad;
    return opened;
  }
  BP_ASSIGN(context_, bus::Context::start());
  bus::DialOptions dial;
  dial.endpoint = config_.rendezvous_endpoint();
  dial.keys = {config_.rank_public_key(), Secret(config_.rank_secret_key())};
  dial.server_public_key = config_.head_public_key();
  BP_ASSIGN(dealer_, bus::Dealer::dial(*context_, std::move(dial)));
  return {};
}

// Between a token and the next step lie the head's 20 to 50 us, for which it needs a core: each look lets it in.
SpinPolicy Program::step_spin() const {
  SpinPolicy spin = spin_policy(static_cast<uint32_t>(config_.plan().ranks_size()) * std::max(1u, config_.threads()));
  return {0, std::min<int64_t>(spin.total_ns, 100'000)};
}

// What peers and the head need to reach this rank in the next generation.
Status Program::open_doors() {
  BP_ASSIGN(auto listener, DataListener::open(config_.address()));
  BP_ASSIGN(channel_, RankStepEnd::make(step_spin()));
  hello_.set_data_endpoint(listener.endpoint());
  hello_.mutable_steps()->set_memory_fd(channel_->memory_fd());
  hello_.mutable_steps()->set_bell_fd(channel_->bell_fd());
  hello_.mutable_steps()->set_nonce(channel_->nonce());
  listener_.emplace(std::move(listener));
  return {};
}

int Program::run() {
  BP_LOG(info, "rank.started", "run={} epoch={}.{} rank={} tp={} pp={} node={} data={}", config_.run_id(),
         config_.group_epoch().incarnation(), config_.group_epoch().counter(), config_.rank(), config_.tp_rank(),
         config_.pp_rank(), config_.node_id(), hello_.data_endpoint());
  while (exit_status_ < 0) {
    check_time();
    if (exit_status_ >= 0) break;
    bus::wait_any({}, {dealer_.get()}, {wake_.get()}, Deadline::at_ns(next_due()));
    for (auto in = dealer_->try_recv(); in.ok() && exit_status_ < 0; in = dealer_->try_recv()) receive(*in);
    uint64_t count;
    (void)!::read(wake_.get(), &count, sizeof count);
    flush();
  }
  work_.abort();
  dealer_.reset();
  context_.reset();  // gives what was sent a moment to leave
  return exit_status_;
}

void Program::report(Reported what) {
  {
    std::lock_guard lock(mutex_);
    reported_.push_back(std::move(what));
  }
  uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void Program::flush() {
  std::deque<Reported> all;
  {
    std::lock_guard lock(mutex_);
    all.swap(reported_);
  }
  for (auto& r : all) {
    if (r.left_generation != 0) {
      left(r.left_generation);
      continue;
    }
    send(r.message);
    if (!r.message.has_failure()) continue;
    const auto& f = r.message.failure();
    const std::string why = "step " + std::to_string(f.step()) + ": " + f.error().code() + ": " + f.error().message();
    if (r.exit_status >= 0) return end(r.exit_status, why);
    BP_LOG(warn, "group.failed", "rank={} generation={} {}", config_.rank(), r.message.generation(), why);
  }
}

void Program::end(int status, const std::string& why) {
  if (exit_status_ >= 0) return;
  exit_status_ = status;
  if (status == kExitDone) BP_LOG(info, "rank.ended", "rank={} {}", config_.rank(), why);
  else BP_LOG(err, "rank.failed", "rank={} status={} {}", config_.rank(), status, why);
}

void Program::send(v1::RankMessage& m) {
  *m.mutable_group_epoch() = config_.group_epoch();
  m.set_sequence(++sequence_);
  Status sent = dealer_->send(m.SerializeAsString());
  if (!sent.ok()) end(kExitLease, "the head takes no more: " + sent.error().message);
}

void Program::hello() {
  v1::RankMessage m;
  m.set_generation(generation_);
  *m.mutable_hello() = hello_;
  m.mutable_hello()->set_kv_pool(work_.kv_pool());
  send(m);
}

int64_t Program::next_due() const {
  int64_t due = INT64_MAX;
  if (phase_ == Phase::kHello) due = std::min(next_hello_ns_, hello_since_ns_ + times_.welcome_ms * kNsPerMs);
  if (lease_.held()) return std::min(due, lease_.deadline_ns());
  return welcome_ns_ == 0 ? due : std::min(due, welcome_ns_ + lease_ms_ * kNsPerMs);
}

void Program::check_time() {
  const int64_t now = monotonic_ns();
  if (phase_ == Phase::kHello && now >= hello_since_ns_ + times_.welcome_ms * kNsPerMs) {
    return end(kExitNotWelcome, "waited " + std::to_string(times_.welcome_ms) + " ms for the head at " +
                                    config_.rendezvous_endpoint() + " to welcome the group");
  }
  if (welcome_ns_ != 0 && now >= (lease_.held() ? lease_.deadline_ns() : welcome_ns_ + lease_ms_ * kNsPerMs)) {
    return end(kExitLease, "the lease lapsed: nothing that renews it came from the head at " +
                               config_.rendezvous_endpoint() + " within " + std::to_string(lease_ms_) + " ms");
  }
  if (phase_ == Phase::kHello && now >= next_hello_ns_) {
    next_hello_ns_ = now + kHelloMs * kNsPerMs;
    hello();
  }
}

void Program::receive(const std::string& payload) {
  auto m = bus::parse<v1::RankMessage>(payload);
  if (!m.ok()) {
    BP_LOG(warn, "message.refused", "from=head {}", m.error().message);
    return;
  }
  const auto& e = m->group_epoch();
  if (e.incarnation() != config_.group_epoch().incarnation() || e.counter() != config_.group_epoch().counter()) return;
  handle(*m);
}

void Program::handle(v1::RankMessage& m) {
  switch (m.body_case()) {
    case v1::RankMessage::kWelcome: return welcome(m);
    case v1::RankMessage::kRegroup: return regroup(m.regroup());
    case v1::RankMessage::kLease: return lease(m.lease());
    case v1::RankMessage::kStep:
      if (m.generation() != generation_ || phase_ != Phase::kJoined) return;   // of a generation that is over
      if (m.step().number() != last_step_ + 1) {
        return end(kExitStep, "step " + std::to_string(m.step().number()) + " came after step " +
                                  std::to_string(last_step_));
      }
      last_step_ = m.step().number();
      work_.step(std::move(*m.mutable_step()));
      return;
    case v1::RankMessage::kShutdown: return end(kExitDone, "told to end: " + m.shutdown().reason());
    default: return;  // nothing that a head may say
  }
}

void Program::welcome(v1::RankMessage& m) {
  const auto& w = m.welcome();
  if (phase_ != Phase::kHello || w.generation() < generation_ || w.first_step() == 0) return;   // said twice, or late
  if (welcome_ns_ == 0) {
    welcome_ns_ = monotonic_ns();
    lease_ms_ = std::max<int64_t>(w.lease_ms(), 1);
  }
  phase_ = Phase::kJoined;
  generation_ = w.generation();
  last_step_ = w.first_step() - 1;
  work_.join(w, std::move(*listener_), w.direct_steps() ? channel_ : nullptr, times_.form_ms);
  listener_.reset();
  channel_.reset();
}

void Program::regroup(const v1::RankRegroup& r) {
  if (r.generation() <= generation_) return;   // said twice
  BP_LOG(info, "group.left", "rank={} generation={} next={} because {}", config_.rank(), generation_, r.generation(),
         r.reason());
  generation_ = r.generation();
  phase_ = Phase::kLeaving;
  work_.leave(generation_);
}

void Program::left(uint64_t generation) {
  if (generation != generation_) return;   // a newer one is on its way
  if (Status opened = open_doors(); !opened.ok()) return end(kExitGroup, opened.error().to_string());
  phase_ = Phase::kHello;
  hello_since_ns_ = monotonic_ns();
  next_hello_ns_ = 0;   // check_time says it at once
}

void Program::lease(const v1::Lease& l) {
  if (welcome_ns_ == 0) return;
  const int64_t now = monotonic_ns();
  if (lease_.held() && !lease_.valid(now)) return;  // a lapsed lease does not come back
  lease_.renew(l, now);
  v1::RankMessage ack;
  ack.mutable_lease_ack()->set_number(l.number());
  lease_.note_ack(l.number(), now);
  send(ack);
}

}  // namespace

int run_rank(const v1::RankConfig& config, const RankFds& fds, RankModel& model, const RankTimes& times) {
  auto lease = RankLease::open(fds.lease);
  if (!lease.ok()) {
    BP_LOG(err, "rank.failed", "rank={} {}", config.rank(), lease.error().to_string());
    return kExitConfig;
  }
  // Never destroyed: the stream's thread may still be in a step when the process ends.
  auto* program = new Program(config, fds, model, times, std::move(*lease));
  if (Status opened = program->open(); !opened.ok()) {
    BP_LOG(err, "rank.failed", "rank={} {}", config.rank(), opened.error().to_string());
    return program->exit_status() >= 0 ? program->exit_status() : kExitStart;
  }
  return program->run();
}

}  // namespace bp::rt
