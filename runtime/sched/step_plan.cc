// What goes into the next step.
#include <algorithm>
#include <cmath>

#include "engine/base/check.h"
#include "runtime/sched/scheduler_state.h"

namespace bp::rt {
namespace {

constexpr uint32_t kChunkStep = 16;  // chunks of a pipeline are multiples of it

}  // namespace

struct SchedulerState::Draft {
  int64_t now_ns = 0;
  v1::Step step;
  SentStep sent;
  uint32_t places = 0;
  uint32_t tokens_left = 0;
  uint64_t work_left = 0;  // for prompts, in the unit of work_of
};

// ---- order

Rank SchedulerState::rank(const Sequence& s, int64_t now_ns, bool with_tenant) const {
  if (s.rebuilt) return {0, 0, 0, ~s.arrival};
  if (now_ns - s.arrived_ns > options_.patience_ns) return {1, 0, 0, s.arrival};
  return {2, s.request.priority, with_tenant ? admission_.had(s.request.tenant) : 0, s.arrival};
}

/// Running sequences that could go into a step: those with one token to compute, or those with more.
std::vector<Sequence*> SchedulerState::in_order(int64_t now_ns, bool decoding) const {
  std::vector<std::pair<Rank, Sequence*>> found;
  for (const auto& [arrival, s] : running_)
    if (!s->ended && !s->sampling && s->remaining() > 0 && (s->remaining() == 1) == decoding)
      found.push_back({rank(*s, now_ns, !decoding), s});
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Sequence*> out;
  for (const auto& [r, s] : found) out.push_back(s);
  return out;
}

/// A choice waits for the first of its request, whose prompt it shares.
bool SchedulerState::leader_is_ahead(const Sequence& s) const {
  if (s.request.same_prompt_as == 0 || s.generated() > 0 || !options_.prefix_sharing) return true;
  const auto leader = by_id_.find(s.request.same_prompt_as);
  return leader == by_id_.end() || sequences_.at(leader->second).sent >= s.request.prompt.size();
}

Sequence* SchedulerState::first_waiting(int64_t now_ns, Rank* its_rank) const {
  Sequence* first = nullptr;
  for (const auto& [arrival, s] : waiting_) {
    if (!leader_is_ahead(*s)) continue;
    const Rank r = rank(*s, now_ns, true);
    if (first && !(r < *its_rank)) continue;
    first = s;
    *its_rank = r;
  }
  return first;
}

// ---- room

uint32_t SchedulerState::blocks_for(uint64_t tokens) const {
  return static_cast<uint32_t>((tokens + options_.kv_block_tokens - 1) / options_.kv_block_tokens);
}

/// Blocks that running sequences need for what they have to compute and do not hold yet.
uint32_t SchedulerState::promised_blocks() const {
  uint32_t promised = 0;
  for (const auto& [arrival, s] : running_)
    if (!s->ended) promised += blocks_for(s->history.size()) - static_cast<uint32_t>(s->blocks.size());
  return promised;
}

/// With several steps under way the sequences are dealt over them, so that no stage idles.
uint32_t SchedulerState::places_per_step() const {
  const auto live = static_cast<uint32_t>(running_.size() + waiting_.size());
  return std::min(options_.max_sequences, std::max(1u, (live + options_.stages - 1) / options_.stages));
}

/// Prompt tokens of one step of a pipeline. n equal chunks of P tokens take (n + stages - 1) * (P / n +
/// overhead), which is least for n = sqrt((stages - 1) * P / overhead).
uint32_t SchedulerState::chunk_tokens() const {
  if (options_.stages == 1) return options_.max_batch_tokens;
  uint64_t pending = 0;
  for (const auto& [arrival, s] : running_) pending += s->remaining();
  for (const auto& [arrival, s] : waiting_) pending += s->remaining();
  const double best = std::sqrt(static_cast<double>(pending) * options_.step_overhead_tokens /
                                (options_.stages - 1));
  const auto steps = static_cast<uint32_t>(best) / kChunkStep + 1;
  return std::min(options_.max_batch_tokens, steps * kChunkStep);
}

/// Work of tokens from `position` on, in parts of a token without attention: attention grows with the
/// context, and stages stay even only if their chunks cost the same.
uint64_t SchedulerState::work_of(uint32_t position, uint32_t tokens) const {
  const uint64_t n = tokens, unit = std::max(1u, options_.attention_parity_tokens);
  if (options_.attention_parity_tokens == 0) return n * unit;
  return n * unit + n * position + n * (n - (n > 0)) / 2;
}

uint32_t SchedulerState::tokens_for(uint32_t position, uint64_t work) const {
  uint32_t low = 0, high = options_.max_batch_tokens;
  while (low < high) {
    const uint32_t mid = (low + high + 1) / 2;
    if (work_of(position, mid) <= work) low = mid;
    else high = mid - 1;
  }
  return low;
}

/// Takes the blocks of the last in the order behind `s`; false when there is none, or when a step under
/// way uses them: they come free when it is done.
bool SchedulerState::preempt_for(const Sequence& s, int64_t now_ns, bool only_outranked) {
  const Rank own = rank(s, now_ns, false);
  Sequence* victim = nullptr;
  Rank last;
  for (const auto& [arrival, r] : running_) {
    if (r == &s || r->blocks.empty()) continue;
    const Rank its = rank(*r, now_ns, false);
    if (!(only_outranked ? own.outranks(its) : own < its) || (victim && its < last)) continue;
    victim = r;
    last = its;
  }
  if (!victim || victim->under_way > 0) return false;
  ++counters_.preemptions;
  release_blocks(*victim);
  running_.erase(victim->arrival);
  queue(*victim);
  return true;
}

/// Gives `s` blocks for as many of `tokens` more tokens as can be had; that number.
uint32_t SchedulerState::reserve(Sequence& s, uint32_t tokens, int64_t now_ns) {
  const uint32_t want = blocks_for(uint64_t{s.scheduled} + tokens);
  while (s.blocks.size() < want) {
    const auto block = pool_.take();
    if (block) s.blocks.push_back(*block);
    else if (!preempt_for(s, now_ns, false)) break;
  }
  const auto room = static_cast<uint32_t>(s.blocks.size()) * options_.kv_block_tokens - s.scheduled;
  return std::min(tokens, room);
}

// ---- sharing

/// What of its history is in the cache. The last token is computed in any case: its logits are needed.
SchedulerState::Shared SchedulerState::find_shared(const Sequence& s) const {
  Shared out;
  if (!options_.prefix_sharing) return out;
  const uint32_t block = options_.kv_block_tokens;
  const auto most = static_cast<uint32_t>(s.history.size()) - 1;
  const auto leader = by_id_.find(s.request.same_prompt_as);
  if (leader != by_id_.end() && s.generated() == 0) {
    const Sequence& l = sequences_.at(leader->second);
    if (l.sent >= s.request.prompt.size() && l.request.prompt == s.request.prompt) {
      const uint32_t full = most / block;
      out.blocks.assign(l.blocks.begin(), l.blocks.begin() + full);
      out.contents.assign(l.contents.begin(), l.contents.begin() + full);
      if (most % block) out.copy_from = l.blocks[full];
      out.tokens = most;
      return out;
    }
  }
  uint64_t parent = BlockPool::kNoContent;
  for (uint32_t end = block; end <= s.history.size(); end += block) {
    const auto found = pool_.find(parent, std::span(s.history).subspan(end - block, block));
    if (!found) break;
    if (end > most) {  // all of the block but its last token
      out.copy_from = found->block;
      out.tokens = most;
      return out;
    }
    out.blocks.push_back(found->block);
    out.contents.push_back(parent = found->content);
    out.tokens = end;
  }
  return out;
}

void SchedulerState::take_shared(Sequence& s, Shared shared, Draft& draft) {
  for (const uint32_t b : shared.blocks) pool_.hold(b);
  if (shared.copy_from) {
    pool_.hold(*shared.copy_from);
    draft.sent.held.push_back(*shared.copy_from);
    const auto to = pool_.take();
    BP_CHECK(to.has_value());  // admit counted it
    auto* copy = draft.step.add_copies();
    copy->set_from(*shared.copy_from);
    copy->set_to(*to);
    shared.blocks.push_back(*to);
    ++counters_.copied_blocks;
  }
  s.blocks = std::move(shared.blocks);
  s.contents = std::move(shared.contents);
  s.scheduled = s.sent = shared.tokens;
  counters_.shared_tokens += shared.tokens;
}

/// Whole blocks of tokens that steps given out compute can be found by whoever comes later.
void SchedulerState::publish(Sequence& s) {
  s.sent = s.scheduled;
  if (!options_.prefix_sharing) return;
  const uint32_t block = options_.kv_block_tokens;
  for (size_t i = s.contents.size(); (i + 1) * block <= s.sent; ++i) {
    const uint64_t parent = i == 0 ? BlockPool::kNoContent : s.contents[i - 1];
    s.contents.push_back(
        pool_.publish(s.blocks[i], parent, std::span(s.history).subspan(i * block, block)));
  }
}

// ---- the step

/// Blocks that must be available before `s` may run: its own, and what others were promised.
uint32_t SchedulerState::blocks_to_admit(const Sequence& s, const Shared& shared) const {
  uint32_t need = blocks_for(s.history.size()) - static_cast<uint32_t>(shared.blocks.size());
  for (const uint32_t b : shared.blocks) need += pool_.holders(b) == 0;
  if (shared.copy_from) need += pool_.holders(*shared.copy_from) == 0;
  return need + promised_blocks();
}

/// Who waits and outranks those that run gets their blocks, if that helps. Before they are in the step.
void SchedulerState::make_room(int64_t now_ns) {
  Rank its_rank;
  Sequence* s = first_waiting(now_ns, &its_rank);
  if (!s) return;
  uint64_t reachable = pool_.available();
  for (const auto& [arrival, r] : running_)
    if (its_rank.outranks(rank(*r, now_ns, false))) reachable += r->blocks.size();
  if (reachable == pool_.available() || blocks_to_admit(*s, find_shared(*s)) > reachable) return;
  while (blocks_to_admit(*s, find_shared(*s)) > pool_.available())
    if (!preempt_for(*s, now_ns, true)) return;
}

/// From the queue into the batch, if its whole history finds room.
bool SchedulerState::admit(Sequence& s, Draft& draft) {
  if (running_.size() >= size_t{options_.max_sequences} * options_.stages) return false;
  Shared shared = find_shared(s);
  if (blocks_to_admit(s, shared) > pool_.available()) return false;
  unqueue(s);
  running_.insert({s.arrival, &s});
  take_shared(s, std::move(shared), draft);
  return true;
}

void SchedulerState::fill_sampling(const Sequence& s, v1::Sampling* out) const {
  *out = s.request.sampling;
  const bool repetition = out->repetition_penalty() != 0 && out->repetition_penalty() != 1;
  if (!repetition && out->presence_penalty() == 0 && out->frequency_penalty() == 0) return;
  const auto prompt_end = s.history.begin() + static_cast<ptrdiff_t>(s.request.prompt.size());
  out->mutable_seen()->Add(prompt_end, s.history.end());
  if (repetition) out->mutable_seen_prompt()->Add(s.history.begin(), prompt_end);
}

/// Not preempted since the step was begun, nor in it already.
bool SchedulerState::can_go_on(const Sequence& s) const {
  return running_.count(s.arrival) && s.draft != drafts_;
}

void SchedulerState::add(Sequence& s, Draft& draft, uint32_t most) {
  const uint32_t count = reserve(s, std::min(s.remaining(), most), draft.now_ns);
  if (count == 0) return;
  const bool sample = count == s.remaining();
  v1::StepSequence* part = draft.step.add_sequences();
  part->set_sequence_id(s.request.id);
  part->set_position(s.scheduled);
  part->mutable_tokens()->Add(s.history.begin() + s.scheduled, s.history.begin() + s.scheduled + count);
  part->mutable_blocks()->Add(s.blocks.begin(),
                              s.blocks.begin() + blocks_for(uint64_t{s.scheduled} + count));
  part->set_sample(sample);
  if (sample) fill_sampling(s, part->mutable_sampling());
  draft.work_left -= std::min(draft.work_left, work_of(s.scheduled, count));
  s.scheduled += count;
  s.draft = drafts_;
  ++s.under_way;
  s.sampling = sample;
  if (sample) s.rebuilt = false;
  draft.sent.parts.push_back({s.arrival, sample});
  draft.sent.tokens += count;
  draft.tokens_left -= count;
  --draft.places;
  admission_.served(s.request.tenant, count);
}

/// Prompts in order: those begun, and from the queue as long as the next one finds room.
void SchedulerState::add_prompts(Draft& draft) {
  const auto begun = in_order(draft.now_ns, false);
  size_t next = 0;
  bool queue_moves = true;
  while (draft.places > 0 && draft.tokens_left > 0 && draft.work_left > 0) {
    while (next < begun.size() && !can_go_on(*begun[next])) ++next;
    Sequence* s = next < begun.size() ? begun[next] : nullptr;
    Rank its_rank;
    Sequence* waiting = queue_moves ? first_waiting(draft.now_ns, &its_rank) : nullptr;
    if (waiting && (!s || its_rank.outranks(rank(*s, draft.now_ns, true)))) {
      queue_moves = admit(*waiting, draft);
      if (!queue_moves) continue;
      s = waiting;
    } else if (s) {
      ++next;
    } else {
      return;
    }
    const uint32_t even = std::max(1u, tokens_for(s->scheduled, draft.work_left));
    const uint64_t before = s->scheduled;
    add(*s, draft, std::min(draft.tokens_left, even));
    counters_.prompt_tokens += s->scheduled - before;
  }
}

std::optional<v1::Step> SchedulerState::next_step(int64_t now_ns) {
  if (sent_.size() >= options_.stages) return std::nullopt;
  ++drafts_;
  Draft draft;
  draft.now_ns = now_ns;
  draft.places = places_per_step();
  draft.tokens_left = options_.max_batch_tokens;
  make_room(now_ns);
  for (Sequence* s : in_order(now_ns, true)) {
    if (draft.places == 0 || draft.tokens_left == 0) break;
    if (can_go_on(*s)) add(*s, draft, 1);
  }
  if (draft.sent.tokens > 0) {
    const uint32_t limit = std::max(options_.mixed_batch_tokens, draft.sent.tokens + kChunkStep);
    draft.tokens_left = std::min(draft.tokens_left, limit - draft.sent.tokens);
  }
  draft.work_left = work_of(0, chunk_tokens());
  add_prompts(draft);
  if (draft.sent.parts.empty()) return std::nullopt;
  for (const auto& part : draft.sent.parts) publish(sequences_.at(part.arrival));
  draft.sent.number = next_number_++;
  draft.step.set_number(draft.sent.number);
  draft.sent.sent_ns = now_ns;
  sent_.push_back(std::move(draft.sent));
  return std::move(draft.step);
}

}  // namespace bp::rt
