#include "engine/shell/dispatcher.h"

#include <algorithm>

namespace bp::shell {
namespace {
constexpr int64_t kRoomMs = 20;  // looked again after so long when all places were taken
constexpr size_t kAdmittedPerTurn = 512;

bool limited(const v1::Limit& l) { return l.concurrency() > 0 || l.rate_per_s() > 0; }
}  // namespace

void Dispatcher::pause(bool paused) {
  paused_ = paused;
  if (!paused) pump();
}

void Dispatcher::set_limit(const v1::Limit& limit) {
  Key& key = keys_[limit.key()];
  key.limit = limit;
  key.tokens = std::max(1u, limit.burst());
  key.filled_boot_ms = world_.clock.boot_ms();
  pump();
}

std::vector<v1::Limit> Dispatcher::limits() const {
  std::vector<v1::Limit> out;
  std::map<std::string, uint32_t> waiting;
  for (const auto& [name, lane] : lanes_) {
    for (const auto& [since, item] : lane.items) {
      for (const auto& key : item.keys) ++waiting[key];
    }
  }
  for (const auto& [name, key] : keys_) {
    if (!limited(key.limit) && key.in_use == 0) continue;
    out.push_back(key.limit);
    out.back().set_key(name);
    out.back().set_in_use(key.in_use);
    out.back().set_waiting(waiting[name]);
  }
  return out;
}

void Dispatcher::start() {
  conductor_.each_run([this](const core::RunState& run) {
    for (const auto& stage : run.stages) {
      if (core::has_live_attempt(stage)) hold(run, stage);
    }
  });
}

void Dispatcher::act(const core::DispatchAttempt& a) {
  const auto* run = conductor_.find(a.ref.run_number);
  if (!run) return;
  Item item{a, {}};
  const auto& definition = run->definition(a.ref.key);
  item.keys.assign(definition.limit_keys().begin(), definition.limit_keys().end());
  item.keys.insert(item.keys.end(), run->submitted->limit_keys.begin(),
                   run->submitted->limit_keys.end());
  std::sort(item.keys.begin(), item.keys.end());
  item.keys.erase(std::unique(item.keys.begin(), item.keys.end()), item.keys.end());
  std::string name = a.ref.shared ? "shared" : "own";
  for (const auto& key : item.keys) name += '\0' + key;
  Lane& lane = lanes_[name];
  lane.shared = a.ref.shared;
  lane.items.emplace(world_.clock.boot_ms() - run->n.priority * kPriorityMs, std::move(item));
  ++waiting_;
  pump();
}

// Cancelled or asked for again meanwhile.
bool Dispatcher::stale(const Item& item) const {
  const auto& ref = item.attempt.ref;
  const auto* run = conductor_.find(ref.run_number);
  const auto* stage = run ? run->find(ref.key) : nullptr;
  return !stage || stage->state != v1::STAGE_STATE_QUEUED ||
         stage->epoch.counter != ref.epoch.counter();
}

void Dispatcher::refill(Key& key, int64_t now) const {
  if (key.limit.rate_per_s() <= 0) return;
  const double burst = std::max(1u, key.limit.burst());
  key.tokens = std::min(burst, key.tokens + key.limit.rate_per_s() *
                                                static_cast<double>(now - key.filled_boot_ms) /
                                                1000);
  key.filled_boot_ms = now;
}

// All of its keys or none.
bool Dispatcher::take(const Item& item, int64_t now, int64_t* wait_ms) {
  const auto held = holding_.find(item.attempt.ref.run_number);
  auto has = [&](const std::string& key) {
    return held != holding_.end() && held->second.of_run.count(key) > 0;
  };
  for (const auto& name : item.keys) {
    if (has(name)) continue;
    Key& key = keys_[name];
    refill(key, now);
    if (key.limit.concurrency() > 0 && key.in_use >= key.limit.concurrency()) return false;
    if (key.limit.rate_per_s() > 0 && key.tokens < 1) {
      const double ms = (1 - key.tokens) * 1000 / key.limit.rate_per_s();
      *wait_ms = std::min(*wait_ms, static_cast<int64_t>(ms) + 1);
      return false;
    }
  }
  for (const auto& name : item.keys) {
    if (!has(name) && keys_[name].limit.rate_per_s() > 0) keys_[name].tokens -= 1;
  }
  const auto* run = conductor_.find(item.attempt.ref.run_number);
  const auto* stage = run ? run->find(item.attempt.ref.key) : nullptr;
  if (stage) hold(*run, *stage);
  return true;
}

void Dispatcher::hold(const core::RunState& run, const core::StageInstance& stage) {
  const auto& of_stage = run.definition(stage.key).limit_keys();
  const auto& of_run = run.submitted->limit_keys;
  if (of_stage.empty() && of_run.empty()) return;
  Holding& holding = holding_[run.run_number];
  for (const auto& key : of_run) {
    if (holding.of_run.insert(key).second) ++keys_[key].in_use;
  }
  std::vector<std::string> keys;
  for (const auto& key : of_stage) {
    if (holding.of_run.count(key)) continue;
    keys.push_back(key);
    ++keys_[key].in_use;
  }
  if (!keys.empty()) holding.of_attempts.emplace_back(stage.epoch.counter, std::move(keys));
}

void Dispatcher::release(const std::string& key) {
  auto it = keys_.find(key);
  if (it != keys_.end() && it->second.in_use > 0) --it->second.in_use;
}

void Dispatcher::changed(const core::RunState& run) {
  auto it = holding_.find(run.run_number);
  if (it == holding_.end()) return;
  auto lives = [&](uint64_t counter) {
    return std::any_of(run.stages.begin(), run.stages.end(), [&](const auto& stage) {
      return stage.epoch.counter == counter &&
             (core::has_live_attempt(stage) || stage.state == v1::STAGE_STATE_QUEUED);
    });
  };
  const size_t before = it->second.of_attempts.size();
  std::erase_if(it->second.of_attempts, [&](const auto& held) {
    if (lives(held.first)) return false;
    for (const auto& key : held.second) release(key);
    return true;
  });
  if (it->second.of_attempts.size() != before) pump_soon(0);
}

void Dispatcher::ended(uint64_t run_number) {
  auto holding = holding_.extract(run_number);
  if (!holding.empty()) {
    for (const auto& key : holding.mapped().of_run) release(key);
    for (const auto& [counter, keys] : holding.mapped().of_attempts) {
      for (const auto& key : keys) release(key);
    }
  }
  if (waiting_ > 0) pump_soon(0);
}

void Dispatcher::pump_soon(int64_t in_ms) {
  if (timer_ && in_ms > 0) return;
  world_.executor.cancel(timer_);
  timer_ = world_.executor.after(in_ms, [this] {
    timer_ = 0;
    pump();
  });
}

// Lanes take turns; within one, the first item decides for those behind it.
void Dispatcher::pump() {
  if (paused_ || pumping_ || waiting_ == 0) return;
  pumping_ = true;
  const int64_t now = world_.clock.boot_ms();
  int64_t wait_ms = kRoomMs;
  size_t admitted = 0, own = 0;
  for (bool some = true; some && admitted < kAdmittedPerTurn;) {
    some = false;
    for (auto it = lanes_.begin(); it != lanes_.end();) {
      Lane& lane = it->second;
      while (!lane.items.empty() && stale(lane.items.begin()->second)) {
        lane.items.erase(lane.items.begin());
        --waiting_;
      }
      if (lane.items.empty()) {
        it = lanes_.erase(it);
        continue;
      }
      const Item& first = lane.items.begin()->second;
      const bool room = lane.shared ? hooks_.shared_has_room() : hooks_.own_count() + own < kOwnMax;
      if (room && take(first, now, &wait_ms)) {
        own += lane.shared ? 0 : 1;
        core::DispatchAttempt attempt = first.attempt;
        lane.items.erase(lane.items.begin());
        --waiting_;
        ++admitted;
        some = true;
        hooks_.admit(attempt);
      }
      ++it;
    }
  }
  pumping_ = false;
  if (waiting_ > 0) pump_soon(admitted >= kAdmittedPerTurn ? 0 : wait_ms);
}

}  // namespace bp::shell
