#include "tests/sim/points/hosts.h"

namespace bp::sim {

void PointsWorld::Host::later(int64_t low_ms, int64_t high_ms, std::function<void()> call) {
  world_.time.in(world_.time.pick(low_ms, high_ms), [this, call = std::move(call)] {
    if (living) call();
  });
}

void PointsWorld::Host::begin_life(bool crash_early) {
  later(1, 20, [this, crash_early] {
    if (crash_early) return die();
    hello();
  });
}

void PointsWorld::Host::die() {
  if (!living) return;
  living = false;
  world_.ledger.host_died(id_);
  if (watcher)
    world_.time.in(world_.time.pick(0, 3), [w = std::move(watcher)] { w("killed by signal 9"); });
}

void PointsWorld::Host::say(v1::StageMessage message, uint64_t sequence) {
  v1::StageBatch batch;
  message.set_sequence(sequence);
  *batch.add_messages() = std::move(message);
  world_.to_daemon(shell::Channel::kStages, id_, batch.SerializeAsString());
}

void PointsWorld::Host::begin(const WorkPtr& work, const v1::StageMessage& m) {
  const Trouble& trouble = world_.trouble;
  work->ref = m.ref();
  work->mode = m.run().mode();
  work->effect_key = m.run().effect_key();
  work->acting = true;
  world_.ledger.begins(id_, work->ref, work->effect_key);
  beat(work);
  if (world_.time.chance(trouble.hang)) return;
  if (!world_.time.chance(trouble.fail)) return act(work);
  v1::AttemptResult result;
  result.set_outcome(v1::AttemptResult::FAILED);
  result.mutable_error()->set_code("BP_UNAVAILABLE");
  result.mutable_error()->set_message("not now");
  later(1, 60, [this, work, result] { finish(work, result); });
}

// Looks, and some time later makes: not one step.
void PointsWorld::Host::act(const WorkPtr& work) {
  later(1, 30, [this, work] {
    if (!work->acting) return;
    const bool found = world_.ledger.exists(work->effect_key);
    later(1, 60, [this, work, found] {
      if (!work->acting) return;
      v1::AttemptResult result;
      result.set_outcome(v1::AttemptResult::SUCCEEDED);
      if (work->mode == v1::ATTEMPT_MODE_DESTROY) {
        world_.ledger.destroys(work->effect_key);
      } else {
        if (!found) world_.ledger.applies(work->effect_key, work->ref);
        (*result.mutable_outputs())["out"] = world_.ledger.made(work->effect_key);
        result.set_handle("handle");
      }
      const bool keeps = work->ref.stage() == "serve" && work->mode == v1::ATTEMPT_MODE_APPLY;
      if (!keeps) return later(0, 20, [this, work, result] { finish(work, result); });
      work->ready = true;
      beat(work);
    });
  });
}

void PointsWorld::Host::beat(const WorkPtr& work) {
  if (!work->acting) return;
  v1::StageMessage m;
  *m.mutable_ref() = work->ref;
  auto& b = *m.mutable_beat();
  b.mutable_progress()->set_done(uint64_t(world_.time.now));
  b.set_handle("handle");
  if (world_.time.chance(0.1)) b.set_checkpoint("at " + std::to_string(world_.time.now));
  b.set_ready(work->ready);
  say(std::move(m), ++sequence_);
  later(500, 500, [this, work] { beat(work); });
}

void PointsWorld::Host::cancel(const WorkPtr& work) {
  if (!work->acting || work->cancelled || world_.time.chance(world_.trouble.ignore_cancel)) return;
  work->cancelled = true;
  v1::AttemptResult result;
  result.set_outcome(v1::AttemptResult::CANCELLED);
  later(1, 100, [this, work, result] { finish(work, result); });
}

void PointsWorld::Host::finish(const WorkPtr& work, v1::AttemptResult result) {
  if (!work->acting) return;
  work->acting = false;
  world_.ledger.ends(id_, work->ref);
  work->result = std::make_unique<v1::AttemptResult>(std::move(result));
  work->sequence = ++sequence_;
  repeat(work);
}

void PointsWorld::Host::repeat(const WorkPtr& work) {
  if (!work->result) return;
  v1::StageMessage m;
  *m.mutable_ref() = work->ref;
  *m.mutable_result() = *work->result;
  say(std::move(m), work->sequence);
  later(500, 500, [this, work] { repeat(work); });
}

void PointsWorld::Host::take_ack(Work& work) {
  if (!work.result) return;
  world_.ledger.acknowledged_result(work.ref);
  work.result.reset();
  acknowledged(work);
}

// ---- one attempt ----

void PointsWorld::OwnHost::hello() {
  if (!heard_ || world_.time.now - heard_at_ > 2'000) {
    v1::StageMessage m;
    if (work_) *m.mutable_ref() = work_->ref;
    m.mutable_hello()->set_host_id(id_);
    say(std::move(m), ++sequence_);
  }
  later(1'000, 1'000, [this] { hello(); });
}

void PointsWorld::OwnHost::hear(const v1::StageBatch& batch) {
  for (const auto& m : batch.messages()) {
    if (m.has_run() && !work_) {
      work_ = std::make_shared<Work>();
      begin(work_, m);
      if (world_.time.chance(world_.trouble.crash)) later(0, 100, [this] { die(); });
    }
    if (!work_) continue;
    heard_ = true;
    heard_at_ = world_.time.now;
    if (m.has_cancel()) cancel(work_);
    if (m.has_result_ack()) take_ack(*work_);
    if (!living) return;
  }
}

void PointsWorld::OwnHost::acknowledged(Work&) { die(); }

// ---- many attempts ----

std::string PointsWorld::SharedHost::key_of(const v1::AttemptRef& ref) {
  return ref.run_id() + "/" + ref.stage() + "/" + std::to_string(ref.map_index()) + "/" +
         std::to_string(ref.epoch().counter());
}

void PointsWorld::SharedHost::hello() {
  if (!heard_ || world_.time.now - heard_at_ > 2'000) {
    v1::StageMessage m;
    auto& h = *m.mutable_hello();
    h.set_host_id(id_);
    h.set_plugin(plugin_);
    h.set_plugin_version(version_);
    h.set_shared(true);
    h.set_slots(64);
    for (const auto& [key, work] : work_) *h.add_holds() = work->ref;
    say(std::move(m), ++sequence_);
  } else {
    world_.to_daemon(shell::Channel::kStages, id_, v1::StageBatch().SerializeAsString());
  }
  later(1'000, 1'000, [this] { hello(); });
}

void PointsWorld::SharedHost::run(const v1::StageMessage& m) {
  const std::string key = key_of(m.ref());
  if (work_.count(key) || over_.count(key)) return;
  auto work = std::make_shared<Work>();
  work_[key] = work;
  begin(work, m);
  if (world_.time.chance(world_.trouble.shared_host_dies)) later(0, 100, [this] { die(); });
}

void PointsWorld::SharedHost::hear(const v1::StageBatch& batch) {
  heard_ = true;
  heard_at_ = world_.time.now;
  for (const auto& m : batch.messages()) {
    if (m.has_run()) run(m);
    auto it = work_.find(key_of(m.ref()));
    if (it == work_.end()) continue;
    const WorkPtr work = it->second;
    if (m.has_cancel()) cancel(work);
    if (m.has_result_ack()) take_ack(*work);
  }
  for (const uint64_t sequence : batch.result_acks()) {
    for (const auto& [key, work] : std::map(work_)) {
      if (work->result && work->sequence == sequence) take_ack(*work);
    }
  }
}

void PointsWorld::SharedHost::acknowledged(Work& work) {
  const std::string key = key_of(work.ref);
  over_.insert(key);
  work_.erase(key);
}

}  // namespace bp::sim
