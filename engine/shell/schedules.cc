#include "engine/shell/schedules.h"

#include <algorithm>

#include "engine/base/limits.h"
#include "engine/base/log.h"

namespace bp::shell {
namespace {

const std::string kPrefix = "schedule/";
constexpr int64_t kCatchUpMaxMs = 7 * 24 * 3600 * 1000ll;  // due times of a week are gone through

std::string bytes_of(const v1::Schedule& s) { return s.SerializeAsString(); }

}  // namespace

Schedules::Schedules(World& world, Conductor& conductor, Hooks hooks)
    : world_(world), conductor_(conductor), hooks_(std::move(hooks)) {}
Schedules::~Schedules() {
  if (timer_ != 0) world_.executor.cancel(timer_);
}

Result<Schedules::Item> Schedules::make(v1::Schedule schedule) {
  if (schedule.name().empty() || schedule.name().size() > limits::kNameBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "the name of a schedule has " + std::to_string(schedule.name().size()) +
                     " bytes; expected 1 to " + std::to_string(limits::kNameBytes),
                 {}};
  }
  if (schedule.overlap() == v1::OVERLAP_UNSPECIFIED) schedule.set_overlap(v1::OVERLAP_SKIP);
  if (!v1::Overlap_IsValid(schedule.overlap())) {
    return Error{ErrorCode::kInvalidArgument,
                 "schedule " + schedule.name() + ": unknown overlap policy",
                 {}};
  }
  if (schedule.catch_up_ms() < 0 || schedule.catch_up_ms() > kCatchUpMaxMs) {
    return Error{ErrorCode::kInvalidArgument,
                 "schedule " + schedule.name() + ": catch_up_ms is " +
                     std::to_string(schedule.catch_up_ms()) + "; expected 0 to " +
                     std::to_string(kCatchUpMaxMs) + " (7 days)",
                 {}};
  }
  if (!schedule.run().secrets().empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "schedule " + schedule.name() + ": a schedule keeps no secrets",
                 "Let a stage of the workflow fetch them"};
  }
  BP_ASSIGN(auto expression, cron::Expression::parse(schedule.cron()));
  BP_ASSIGN(auto zone, cron::Zone::find(schedule.zone()));
  return Item{std::move(schedule), std::move(expression), zone};
}

Status Schedules::load() {
  const auto& meta = conductor_.meta();
  for (auto it = meta.lower_bound(kPrefix); it != meta.end() && it->first.starts_with(kPrefix);
       ++it) {
    v1::Schedule schedule;
    if (!schedule.ParseFromString(it->second))
      return Error{ErrorCode::kJournal, "meta " + it->first + " cannot be read", {}};
    auto item = make(std::move(schedule));
    if (!item.ok()) return std::move(item).error().with_context("meta " + it->first);
    items_.emplace(it->first.substr(kPrefix.size()), std::move(*item));
  }
  return {};
}

void Schedules::start() { look(); }

void Schedules::save(Item& item, Extra extra) {
  extra.meta[kPrefix + item.schedule.name()] = bytes_of(item.schedule);
  conductor_.write(std::move(extra), [] {});
}

// Starts what is due and sleeps until the next due time, or a while.
void Schedules::look() {
  if (timer_ != 0) world_.executor.cancel(timer_);
  const int64_t now = world_.clock.wall_ms();
  int64_t sleep_ms = kLookMs;
  for (auto& [name, item] : items_) {
    if (item.schedule.paused()) continue;
    if (item.schedule.next_due_wall_ms() <= now) due(item, now);
    sleep_ms = std::min(sleep_ms, item.schedule.next_due_wall_ms() - world_.clock.wall_ms());
  }
  timer_ = world_.executor.after(std::max<int64_t>(1, sleep_ms), [this] {
    timer_ = 0;
    look();
  });
}

void Schedules::due(Item& item, int64_t now_wall_ms) {
  v1::Schedule& s = item.schedule;
  // The newest due time that has come; those before it were missed.
  int64_t newest = s.next_due_wall_ms();
  const int64_t grace_ms = std::max<int64_t>(s.catch_up_ms(), 2 * kLookMs);
  int64_t next = item.zone.next_wall_ms(item.expression, newest);
  // After a long time away only what can still count is gone through one by one.
  if (next <= now_wall_ms && newest < now_wall_ms - grace_ms) {
    next = item.zone.next_wall_ms(item.expression, now_wall_ms - grace_ms);
    s.set_skipped(s.skipped() + 1);
    newest = 0;
  }
  for (; next <= now_wall_ms; next = item.zone.next_wall_ms(item.expression, next)) {
    if (newest != 0) s.set_skipped(s.skipped() + 1);
    newest = next;
  }
  s.set_next_due_wall_ms(next);
  if (newest == 0 || newest < now_wall_ms - grace_ms) {
    if (newest != 0) s.set_skipped(s.skipped() + 1);
    return save(item);
  }
  s.set_last_due_wall_ms(newest);
  if (!last_lives(item) || s.overlap() == v1::OVERLAP_ALLOW) return begin(item, newest);
  if (s.overlap() == v1::OVERLAP_SKIP || s.buffered()) {
    s.set_skipped(s.skipped() + 1);
    return save(item);
  }
  s.set_buffered(true);  // starts when the last one has ended
  save(item);
  if (s.overlap() == v1::OVERLAP_CANCEL_OTHER) {
    Status told = hooks_.cancel(s.last_run_id(), "schedule " + s.name() + " starts the next one");
    if (!told.ok())
      BP_LOG(warn, "schedule.not_cancelled", "schedule={} run={} why={}", s.name(), s.last_run_id(),
             told.error().message);
  }
}

bool Schedules::last_lives(const Item& item) const {
  return !item.schedule.last_run_id().empty() &&
         conductor_.find(item.schedule.last_run_id()) != nullptr;
}

void Schedules::begin(Item& item, int64_t due_wall_ms) {
  v1::Schedule& s = item.schedule;
  v1::NewRun run = s.run();
  run.set_idempotency_key(kPrefix + s.name() + "/" + std::to_string(due_wall_ms));
  (*run.mutable_labels())["schedule"] = s.name();
  const v1::Schedule before = s;
  s.set_buffered(false);
  s.set_started(s.started() + 1);
  auto started = hooks_.start(run, s.name(), [&](const std::string& run_id) {
    s.set_last_run_id(run_id);
    Extra extra;
    extra.meta[kPrefix + s.name()] = bytes_of(s);
    return extra;
  });
  if (started.ok()) {
    BP_LOG(info, "schedule.started", "schedule={} run={} due_wall_ms={}", s.name(), *started,
           due_wall_ms);
    return;
  }
  // Refused (overloaded, no such workflow any more): the due time is lost, and counted.
  BP_LOG(warn, "schedule.not_started", "schedule={} why={}", s.name(), started.error().message);
  const int64_t next = s.next_due_wall_ms();
  s = before;
  s.set_next_due_wall_ms(next);
  s.set_buffered(false);
  s.set_skipped(s.skipped() + 1);
  save(item);
}

void Schedules::run_ended(const std::string& run_id) {
  for (auto& [name, item] : items_) {
    if (item.schedule.last_run_id() != run_id || !item.schedule.buffered()) continue;
    if (item.schedule.paused()) continue;
    begin(item, item.schedule.last_due_wall_ms());
  }
}

Status Schedules::put(v1::Schedule schedule, std::function<void(const v1::Schedule&)> durable) {
  auto known = items_.find(schedule.name());
  if (known == items_.end() && items_.size() >= kSchedulesMax) {
    return Error{ErrorCode::kTooLarge,
                 "there are " + std::to_string(kSchedulesMax) + " schedules already",
                 {}};
  }
  if (known != items_.end()) {  // its past stays
    const v1::Schedule& old = known->second.schedule;
    schedule.set_last_due_wall_ms(old.last_due_wall_ms());
    schedule.set_last_run_id(old.last_run_id());
    schedule.set_started(old.started());
    schedule.set_skipped(old.skipped());
    schedule.set_buffered(old.buffered());
  }
  BP_ASSIGN(Item item, make(std::move(schedule)));
  item.schedule.set_next_due_wall_ms(
      item.zone.next_wall_ms(item.expression, world_.clock.wall_ms()));
  const v1::Schedule shown = item.schedule;
  items_.insert_or_assign(shown.name(), std::move(item));
  Extra extra;
  extra.meta[kPrefix + shown.name()] = bytes_of(shown);
  conductor_.write(std::move(extra), [shown, durable = std::move(durable)] { durable(shown); });
  look();
  return {};
}

Status Schedules::drop(const std::string& name, std::function<void()> durable) {
  if (items_.erase(name) == 0)
    return Error{ErrorCode::kNotFound, "no schedule \"" + name + "\"", {}};
  Extra extra;
  extra.drop_meta.push_back(kPrefix + name);
  conductor_.write(std::move(extra), std::move(durable));
  return {};
}

Result<std::string> Schedules::trigger(const std::string& name, const std::string& request_key) {
  auto it = items_.find(name);
  if (it == items_.end()) return Error{ErrorCode::kNotFound, "no schedule \"" + name + "\"", {}};
  v1::NewRun run = it->second.schedule.run();
  run.set_idempotency_key(kPrefix + name + "/trigger/" + request_key);
  (*run.mutable_labels())["schedule"] = name;
  return hooks_.start(run, name, {});
}

Result<std::vector<v1::Schedule>> Schedules::list(const std::string& name) const {
  std::vector<v1::Schedule> out;
  for (const auto& [known, item] : items_) {
    if (name.empty() || name == known) out.push_back(item.schedule);
  }
  if (!name.empty() && out.empty())
    return Error{ErrorCode::kNotFound, "no schedule \"" + name + "\"", {}};
  return out;
}

Result<std::vector<int64_t>> Schedules::upcoming(const std::string& name, uint32_t n) const {
  auto it = items_.find(name);
  if (it == items_.end()) return Error{ErrorCode::kNotFound, "no schedule \"" + name + "\"", {}};
  std::vector<int64_t> out;
  int64_t at = it->second.schedule.next_due_wall_ms();
  for (uint32_t i = 0; i < std::min(n, 1'000u); ++i) {
    out.push_back(at);
    at = it->second.zone.next_wall_ms(it->second.expression, at);
  }
  return out;
}

}  // namespace bp::shell
