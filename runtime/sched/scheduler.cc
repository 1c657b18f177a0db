#include "runtime/sched/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

namespace bp::rt {
namespace {

struct Sequence {
  SequenceRequest request;
  uint64_t arrival = 0;
  std::vector<uint32_t> history;  // prompt and final tokens
  std::vector<uint32_t> blocks;
  uint32_t scheduled = 0;  // tokens of the history that steps sent so far hold
  uint32_t under_way = 0;  // uncommitted steps that use its blocks
  bool sampling = false;   // one of them samples
  bool cancelled = false;

  uint32_t generated() const {
    return static_cast<uint32_t>(history.size() - request.prompt.size());
  }
  uint32_t remaining() const { return static_cast<uint32_t>(history.size()) - scheduled; }
};

struct SentStep {
  uint64_t number = 0;
  struct Part {
    uint64_t arrival;
    bool sample;
  };
  std::vector<Part> parts;
};

class SchedulerImpl final : public Scheduler {
 public:
  explicit SchedulerImpl(const SchedulerOptions& options) : options_(options) { fill_free_list(); }

  Status arrive(SequenceRequest request) override {
    if (request.prompt.empty() || request.max_new_tokens == 0 || by_id_.count(request.id)) {
      return Error{
          ErrorCode::kInvalidArgument,
          fmt::format("sequence {}: expected a new id, a prompt, and at least one new token",
                      request.id),
          {}};
    }
    uint64_t total = request.prompt.size() + static_cast<uint64_t>(request.max_new_tokens);
    uint64_t room =
        std::min<uint64_t>(options_.max_context_tokens,
                           static_cast<uint64_t>(options_.kv_blocks) * options_.kv_block_tokens);
    if (total > room) {
      return Error{ErrorCode::kTooLarge,
                   fmt::format("{} prompt tokens and {} new ones are more than the context of {}",
                               request.prompt.size(), request.max_new_tokens, room),
                   {}};
    }
    if (waiting_.size() >= options_.max_waiting) {
      return Error{ErrorCode::kUnavailable,
                   fmt::format("{} requests are waiting already", waiting_.size()),
                   {}};
    }
    uint64_t arrival = next_arrival_++;
    by_id_[request.id] = arrival;
    Sequence& s = sequences_[arrival];
    s.arrival = arrival;
    s.history = request.prompt;
    s.request = std::move(request);
    waiting_.insert({arrival, &s});
    return {};
  }

  void cancel(uint64_t id) override {
    auto found = by_id_.find(id);
    if (found == by_id_.end()) return;
    Sequence& s = sequences_.at(found->second);
    by_id_.erase(found);
    s.cancelled = true;
    if (s.under_way == 0) remove(s);
  }

  std::optional<v1::Step> next_step() override {
    if (sent_.size() >= options_.steps_outstanding) return std::nullopt;
    v1::Step step;
    SentStep sent;
    uint32_t budget = options_.max_batch_tokens;
    uint32_t places = places_per_step();
    // Decoding first: it is what people watch. Then prompts, old ones before new ones.
    for (bool decoding : {true, false}) {
      std::vector<uint64_t> arrivals;  // of now: a preemption changes running_
      for (const auto& [arrival, s] : running_) arrivals.push_back(arrival);
      for (uint64_t arrival : arrivals) {
        auto found = running_.find(arrival);
        if (budget == 0 || places == 0) break;
        if (found == running_.end() || (found->second->remaining() == 1) != decoding) continue;
        add(*found->second, step, sent, budget, places);
      }
    }
    while (budget > 0 && places > 0 && !waiting_.empty()) {
      Sequence& s = *waiting_.begin()->second;
      bool fits = blocks_for(static_cast<uint32_t>(s.history.size())) <= free_.size();
      if (!fits && !running_.empty()) break;
      waiting_.erase(waiting_.begin());
      running_.insert({s.arrival, &s});
      add(s, step, sent, budget, places);
    }
    if (sent.parts.empty()) return std::nullopt;
    sent.number = next_number_++;
    step.set_number(sent.number);
    sent_.push_back(std::move(sent));
    return step;
  }

  Result<std::vector<SequenceUpdate>> step_done(const v1::StepResult& result) override {
    if (sent_.empty() || sent_.front().number != result.number()) {
      return Error{
          ErrorCode::kProtocol,
          fmt::format("result of step {}, expected {}", result.number(),
                      sent_.empty() ? std::string("none") : std::to_string(sent_.front().number)),
          {}};
    }
    std::map<uint64_t, const v1::SampledToken*> tokens;
    for (const auto& t : result.tokens()) tokens[t.sequence_id()] = &t;
    for (const auto& part : sent_.front().parts) {
      uint64_t id = sequences_.at(part.arrival).request.id;
      if (part.sample && !tokens.count(id)) {
        return Error{
            ErrorCode::kProtocol,
            fmt::format("result of step {} has no token for sequence {}", result.number(), id),
            {}};
      }
    }
    SentStep done = std::move(sent_.front());
    sent_.pop_front();
    std::vector<SequenceUpdate> updates;
    for (const auto& part : done.parts) {
      Sequence& s = sequences_.at(part.arrival);
      --s.under_way;
      if (part.sample) s.sampling = false;
      if (part.sample && !s.cancelled) {
        updates.push_back(commit(s, *tokens.at(s.request.id)));
        if (updates.back().finished) {
          by_id_.erase(s.request.id);
          s.cancelled = true;
        }
      }
      if (s.cancelled && s.under_way == 0) remove(s);
    }
    return updates;
  }

  void group_lost() override {
    sent_.clear();
    next_number_ = 1;
    for (auto it = sequences_.begin(); it != sequences_.end();) {
      Sequence& s = it->second;
      s.blocks.clear();
      s.scheduled = s.under_way = 0;
      s.sampling = false;
      if (s.cancelled) {
        running_.erase(s.arrival);
        waiting_.erase(s.arrival);
        it = sequences_.erase(it);
        continue;
      }
      ++it;
    }
    for (auto& [arrival, s] : running_) waiting_.insert({arrival, s});
    running_.clear();
    fill_free_list();
  }

  uint64_t running() const override { return running_.size(); }
  uint64_t waiting() const override { return waiting_.size(); }
  uint32_t free_blocks() const override { return static_cast<uint32_t>(free_.size()); }

 private:
  void fill_free_list() {
    free_.clear();
    for (uint32_t b = options_.kv_blocks; b > 0; --b) free_.push_back(b - 1);
  }
  uint32_t blocks_for(uint32_t tokens) const {
    return (tokens + options_.kv_block_tokens - 1) / options_.kv_block_tokens;
  }
  /// With several steps under way the sequences are dealt over them, so that no pipeline stage
  /// idles.
  uint32_t places_per_step() const {
    auto live = static_cast<uint32_t>(running_.size() + waiting_.size());
    uint32_t share =
        (live + options_.steps_outstanding - 1) / std::max(1u, options_.steps_outstanding);
    return std::min(options_.max_sequences, std::max(1u, share));
  }

  void release(Sequence& s) {
    free_.insert(free_.end(), s.blocks.rbegin(), s.blocks.rend());
    s.blocks.clear();
  }
  void remove(Sequence& s) {
    release(s);
    running_.erase(s.arrival);
    waiting_.erase(s.arrival);
    sequences_.erase(s.arrival);
  }

  /// Takes blocks from the youngest sequence behind `s`; false when none is free of steps under
  /// way.
  bool preempt_for(const Sequence& s) {
    for (auto it = running_.rbegin(); it != running_.rend() && it->first > s.arrival; ++it) {
      Sequence& victim = *it->second;
      if (victim.blocks.empty()) continue;
      if (victim.under_way > 0) return false;  // its blocks come free when its step is done
      release(victim);
      victim.scheduled = 0;
      waiting_.insert({victim.arrival, &victim});
      running_.erase(victim.arrival);
      return true;
    }
    return false;
  }

  /// Gives `s` blocks for as many of `tokens` more tokens as can be had; that number.
  uint32_t reserve(Sequence& s, uint32_t tokens) {
    uint32_t want = blocks_for(s.scheduled + tokens);
    while (s.blocks.size() < want) {
      if (free_.empty() && !preempt_for(s)) break;
      s.blocks.push_back(free_.back());
      free_.pop_back();
    }
    auto room = static_cast<uint32_t>(s.blocks.size()) * options_.kv_block_tokens - s.scheduled;
    return std::min(tokens, room);
  }

  void add(Sequence& s, v1::Step& step, SentStep& sent, uint32_t& budget, uint32_t& places) {
    if (s.cancelled || s.sampling || s.remaining() == 0) return;
    uint32_t count = reserve(s, std::min(s.remaining(), budget));
    if (count == 0) return;
    bool sample = count == s.remaining();
    v1::StepSequence* part = step.add_sequences();
    part->set_sequence_id(s.request.id);
    part->set_position(s.scheduled);
    part->mutable_tokens()->Add(s.history.begin() + s.scheduled,
                                s.history.begin() + s.scheduled + count);
    part->mutable_blocks()->Add(s.blocks.begin(),
                                s.blocks.begin() + blocks_for(s.scheduled + count));
    part->set_sample(sample);
    if (sample) *part->mutable_sampling() = s.request.sampling;
    s.scheduled += count;
    ++s.under_way;
    s.sampling = sample;
    sent.parts.push_back({s.arrival, sample});
    budget -= count;
    --places;
  }

  SequenceUpdate commit(Sequence& s, const v1::SampledToken& token) {
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
    return update;
  }

  SchedulerOptions options_;
  std::map<uint64_t, Sequence> sequences_;           // by arrival; nodes never move
  std::unordered_map<uint64_t, uint64_t> by_id_;     // live ones: id -> arrival
  std::map<uint64_t, Sequence*> waiting_, running_;  // by arrival
  std::deque<SentStep> sent_;
  std::vector<uint32_t> free_;
  uint64_t next_arrival_ = 1;
  uint64_t next_number_ = 1;
};

}  // namespace

std::unique_ptr<Scheduler> Scheduler::make(const SchedulerOptions& options) {
  return std::make_unique<SchedulerImpl>(options);
}

}  // namespace bp::rt
