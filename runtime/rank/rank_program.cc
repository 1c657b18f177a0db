#include "runtime/rank/rank_program.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <deque>
#include <mutex>

#include "engine/base/build.h"
#include "engine/base/fd.h"
#include "engine/base/log.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"
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
        work_(c, fds, model, lease_, [this](v1::RankMessage m, int status) { report(std::move(m), status); }) {}
  Status open();
  int run();

 private:
  struct Reported { v1::RankMessage message; int exit_status; };

  void report(v1::RankMessage message, int exit_status);   // stream's thread
  void send(v1::RankMessage& m);
  void hello();
  void receive(const std::string& payload);
  void handle(v1::RankMessage& m);
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
  std::optional<DataListener> listener_;  // until we are welcome
  v1::RankHello hello_;
  Fd wake_;
  std::mutex mutex_;                      // guards reported_
  std::deque<Reported> reported_;
  uint64_t sequence_ = 0, last_step_ = 0;
  int64_t begin_ns_ = monotonic_ns(), next_hello_ns_ = 0;
  int64_t welcome_ns_ = 0, lease_ms_ = 0;
  int exit_status_ = -1;
  RankWork work_;                         // last: its thread reports to the above
};

Status Program::open() {
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return errno_error("eventfd", errno);
  BP_ASSIGN(auto listener, DataListener::open(config_.address()));
  BP_ASSIGN(ProcessId me, process_identity(::getpid()));
  hello_.set_rank(config_.rank());
  hello_.mutable_process()->set_pid(me.pid);
  hello_.mutable_process()->set_start_ticks(me.start_ticks);
  hello_.mutable_process()->set_boot_id(me.boot_id);
  hello_.set_host_identity(boot_id());
  hello_.set_data_endpoint(listener.endpoint());
  hello_.set_build_id(build_id());
  hello_.set_numerics_class(model_.numerics_class());
  hello_.set_protocol(kRankProtocol);
  hello_.set_node_id(config_.node_id());
  hello_.set_model_key(model_.model_key());
  listener_.emplace(std::move(listener));
  BP_ASSIGN(context_, bus::Context::start());
  bus::DialOptions dial;
  dial.endpoint = config_.rendezvous_endpoint();
  dial.keys = {config_.rank_public_key(), Secret(config_.rank_secret_key())};
  dial.server_public_key = config_.head_public_key();
  BP_ASSIGN(dealer_, bus::Dealer::dial(*context_, std::move(dial)));
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

void Program::report(v1::RankMessage message, int exit_status) {
  {
    std::lock_guard lock(mutex_);
    reported_.push_back({std::move(message), exit_status});
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
    send(r.message);
    if (r.exit_status >= 0) {
      const auto& e = r.message.failure().error();
      end(r.exit_status, "step " + std::to_string(r.message.failure().step()) + ": " + e.code() + ": " + e.message());
      return;
    }
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
  *m.mutable_hello() = hello_;
  send(m);
}

int64_t Program::next_due() const {
  if (welcome_ns_ == 0) return std::min(next_hello_ns_, begin_ns_ + times_.welcome_ms * kNsPerMs);
  return lease_.held() ? lease_.deadline_ns() : welcome_ns_ + lease_ms_ * kNsPerMs;
}

void Program::check_time() {
  const int64_t now = monotonic_ns();
  if (welcome_ns_ == 0) {
    if (now >= begin_ns_ + times_.welcome_ms * kNsPerMs) {
      return end(kExitNotWelcome, "waited " + std::to_string(times_.welcome_ms) + " ms for the head at " +
                                      config_.rendezvous_endpoint() + " to welcome the group");
    }
    if (now >= next_hello_ns_) {
      next_hello_ns_ = now + kHelloMs * kNsPerMs;
      hello();
    }
  } else if (now >= next_due()) {
    end(kExitLease, "the lease lapsed: nothing that renews it came from the head at " +
                        config_.rendezvous_endpoint() + " within " + std::to_string(lease_ms_) + " ms");
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
    case v1::RankMessage::kWelcome: {
      if (welcome_ns_ != 0) return;   // said twice
      welcome_ns_ = monotonic_ns();
      lease_ms_ = std::max<int64_t>(m.welcome().lease_ms(), 1);
      work_.start(m.welcome(), std::move(*listener_), times_.form_ms);
      listener_.reset();
      return;
    }
    case v1::RankMessage::kLease: return lease(m.lease());
    case v1::RankMessage::kStep:
      if (welcome_ns_ == 0 || m.step().number() != last_step_ + 1) {
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
    return kExitStart;
  }
  return program->run();
}

}  // namespace bp::rt
