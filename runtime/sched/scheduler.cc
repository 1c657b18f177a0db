#include "runtime/sched/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "runtime/sched/scheduler_state.h"

namespace bp::rt {

SchedulerState::SchedulerState(const SchedulerOptions& options)
    : options_(options),
      pool_(options.kv_blocks, options.kv_block_tokens),
      admission_(options.max_waiting_tokens
                     ? options.max_waiting_tokens
                     : uint64_t{4} * options.kv_blocks * options.kv_block_tokens) {
  options_.stages = std::max(1u, options_.stages);
}

Status SchedulerState::check(const SequenceRequest& r) const {
  if (r.prompt.empty() || r.max_new_tokens == 0 || by_id_.count(r.id)) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("sequence {}: expected a new id, a prompt, and at least one new token", r.id),
                 {}};
  }
  const uint64_t total = r.prompt.size() + uint64_t{r.max_new_tokens};
  const uint64_t room = std::min<uint64_t>(options_.max_context_tokens,
                                           uint64_t{options_.kv_blocks} * options_.kv_block_tokens);
  if (total <= room) return {};
  return Error{ErrorCode::kTooLarge,
               fmt::format("{} prompt tokens and {} new ones are more than the context of {}",
                           r.prompt.size(), r.max_new_tokens, room),
               {}};
}

Status SchedulerState::check_queue(const std::vector<SequenceRequest>& requests) {
  uint64_t cost = 0;
  for (const auto& r : requests) cost += admission_.cost(r.prompt.size(), r.max_new_tokens);
  if (waiting_.size() + requests.size() > options_.max_waiting && !waiting_.empty()) {
    ++counters_.refused;
    admission_.refuse(cost);
    return Error{ErrorCode::kOverloaded, fmt::format("{} sequences are waiting already", waiting_.size()), {}};
  }
  if (admission_.fits(requests.front().tenant, cost)) return {};
  ++counters_.refused;
  return Error{ErrorCode::kOverloaded,
               fmt::format("work of {} tokens is waiting already; this request would add {}",
                           admission_.waiting_tokens(), cost),
               {}};
}

Status SchedulerState::arrive(std::vector<SequenceRequest> requests, int64_t now_ns) {
  std::set<uint64_t> ids;
  for (const auto& r : requests) {
    BP_TRY(check(r));
    if (!ids.insert(r.id).second)
      return Error{ErrorCode::kInvalidArgument, fmt::format("sequence {} is there twice", r.id), {}};
  }
  if (requests.empty()) return {};
  const bool probe = requests.size() == 1 && requests[0].priority == kProbePriority;
  if (!probe) BP_TRY(check_queue(requests));
  for (auto& r : requests) {
    const uint64_t arrival = next_arrival_++;
    by_id_[r.id] = arrival;
    Sequence& s = sequences_[arrival];
    s.arrival = arrival;
    s.arrived_ns = now_ns;
    s.history = r.prompt;
    s.request = std::move(r);
    with_deadline_ += s.request.deadline_ns != 0;
    admission_.arrived(s.request.tenant);
    queue(s);
  }
  return {};
}

void SchedulerState::queue(Sequence& s) {
  s.cost = admission_.cost(s.history.size(), s.request.max_new_tokens - s.generated());
  admission_.waits(s.request.tenant, s.cost);
  waiting_.insert({s.arrival, &s});
}

void SchedulerState::unqueue(Sequence& s) {
  if (waiting_.erase(s.arrival)) admission_.waits_no_more(s.request.tenant, s.cost);
}

void SchedulerState::release_blocks(Sequence& s) {
  for (auto b = s.blocks.rbegin(); b != s.blocks.rend(); ++b) pool_.release(*b);
  s.blocks.clear();
  s.contents.clear();
  s.scheduled = s.sent = 0;
}

void SchedulerState::remove(Sequence& s) {
  release_blocks(s);
  unqueue(s);
  running_.erase(s.arrival);
  sequences_.erase(s.arrival);
}

void SchedulerState::end(Sequence& s) {
  by_id_.erase(s.request.id);
  s.ended = true;
  with_deadline_ -= s.request.deadline_ns != 0;
  admission_.ended(s.request.tenant);
}

void SchedulerState::cancel(uint64_t id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return;
  Sequence& s = sequences_.at(found->second);
  end(s);
  if (s.under_way == 0) remove(s);
}

std::vector<uint64_t> SchedulerState::expire(int64_t now_ns) {
  std::vector<uint64_t> late;
  if (with_deadline_ == 0) return late;
  for (const auto& [arrival, s] : sequences_)
    if (!s.ended && s.request.deadline_ns != 0 && now_ns >= s.request.deadline_ns)
      late.push_back(s.request.id);
  for (const uint64_t id : late) cancel(id);
  counters_.expired += late.size();
  return late;
}

Status SchedulerState::check_result(const v1::StepResult& result) const {
  const auto wrong = [](std::string text) { return Error{ErrorCode::kProtocol, std::move(text), {}}; };
  if (sent_.empty() || sent_.front().number != result.number()) {
    return wrong(fmt::format("result of step {}, expected {}", result.number(),
                             sent_.empty() ? "none" : std::to_string(sent_.front().number)));
  }
  std::set<uint64_t> ids;
  for (const auto& t : result.tokens()) ids.insert(t.sequence_id());
  for (const auto& part : sent_.front().parts) {
    const uint64_t id = sequences_.at(part.arrival).request.id;
    if (part.sample && !ids.count(id))
      return wrong(fmt::format("result of step {} has no token for sequence {}", result.number(), id));
  }
  return {};
}

Result<std::vector<SequenceUpdate>> SchedulerState::step_done(const v1::StepResult& result,
                                                              int64_t now_ns) {
  BP_TRY(check_result(result));
  std::unordered_map<uint64_t, const v1::SampledToken*> tokens;
  for (const auto& t : result.tokens()) tokens[t.sequence_id()] = &t;
  const SentStep done = std::move(sent_.front());
  sent_.pop_front();
  admission_.measured(done.tokens, now_ns - std::max(done.sent_ns, last_done_ns_));
  last_done_ns_ = now_ns;
  for (const uint32_t b : done.held) pool_.release(b);
  std::vector<SequenceUpdate> updates;
  for (const auto& part : done.parts) {
    Sequence& s = sequences_.at(part.arrival);
    --s.under_way;
    if (part.sample) s.sampling = false;
    if (part.sample && !s.ended) updates.push_back(commit(s, *tokens.at(s.request.id)));
    if (s.ended && s.under_way == 0) remove(s);
  }
  return updates;
}

SequenceUpdate SchedulerState::commit(Sequence& s, const v1::SampledToken& token) {
  SequenceUpdate update;
  update.id = s.request.id;
  update.token = token;
  s.history.push_back(token.token());
  const auto& stops = s.request.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token.token()) != stops.end())
    update.finish_reason = "stop";
  else if (s.generated() >= s.request.max_new_tokens)
    update.finish_reason = "length";
  update.finished = !update.finish_reason.empty();
  if (update.finished) {
    admission_.finished(s.generated());
    end(s);
  }
  return update;
}

void SchedulerState::group_lost() {
  next_number_ = 1;
  sent_.clear();
  pool_.reset();
  for (auto it = sequences_.begin(); it != sequences_.end();) {
    Sequence& s = (it++)->second;
    s.blocks.clear();  // the pool has forgotten them too
    s.under_way = 0;
    compute_again(s);
  }
}

/// Back into the queue, or out of the world when nobody waits for it. Its blocks are gone already.
void SchedulerState::compute_again(Sequence& s) {
  release_blocks(s);
  s.sampling = false;
  if (s.ended) return remove(s);
  if (!running_.erase(s.arrival)) return;
  s.rebuilt = true;
  queue(s);
}

std::unique_ptr<Scheduler> Scheduler::make(const SchedulerOptions& options) {
  return std::make_unique<SchedulerState>(options);
}

}  // namespace bp::rt
