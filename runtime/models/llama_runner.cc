// The Llama family (SmolLM2, Llama 3.x) as a ModelRunner.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "engine/base/clock.h"
#include "engine/base/limits.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/layers/llama_layer.h"
#include "runtime/layers/rotary.h"
#include "runtime/models/model_runner.h"
#include "runtime/models/weight_layout.h"
#include "runtime/models/weight_segment.h"
#include "runtime/sample/sampler.h"

namespace bp::rt {
namespace {

constexpr uint32_t kStepTokensMax = 32'768;    // bounds the buffers of a step
constexpr uint32_t kThreadsMax = 512;

KvShape kv_shape(const plan::ShardPlan& plan, uint32_t rank, uint32_t block_tokens, uint32_t blocks, bool exact) {
  const plan::RankShard& s = plan.ranks[rank];
  return {s.layers.size(), s.kv_heads.size(), plan.model.head_dim, block_tokens, blocks, !exact};
}

Error invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, std::move(message), {}}; }

class LlamaRunner final : public ModelRunner {
 public:
  LlamaRunner(const WeightSource& source, const RunnerOptions& options, RunnerMemory memory, RunnerComms comms)
      : plan_(options.plan), shard_(plan_.ranks[options.rank]), exact_(options.exact), memory_(memory),
        pp_(comms.pp), pool_(options.threads),
        kv_(kv_shape(plan_, options.rank, options.kv_block_tokens, options.kv_blocks, exact_), memory.kv),
        group_(plan_, options.rank, comms.tp) {
    shared_.ops = &best_ops();
    shared_.pool = &pool_;
    shared_.kv = &kv_;
    shared_.group = &group_;
    shared_.work = &work_;
    shared_.config = source.config();
    shared_.shard = shard_;
    work_.scratch.resize(options.threads);
  }

  Status load_weights(const WeightSource& source, const WeightLayout& layout,
                      const std::function<void(uint64_t, uint64_t)>& progress, bool* reused) {
    BP_TRY(fill_segment(source, layout, memory_.weights, pool_, progress, reused));
    const std::span<const std::byte> segment = memory_.weights;
    const auto matrix = [&](size_t e) { return segment_matrix(layout, e, segment); };
    const auto vector = [&](size_t e) { return segment_vector(layout, e, segment); };
    for (const WeightLayout::Layer& l : layout.layers) {
      const LayerWeights w{vector(l.attn_norm), vector(l.ffn_norm), matrix(l.q), matrix(l.k), matrix(l.v),
                           matrix(l.o), matrix(l.gate), matrix(l.up), matrix(l.down)};
      layers_.emplace_back(&shared_, static_cast<uint32_t>(layers_.size()), w);
    }
    if (layout.embedding != WeightLayout::kNone) embedding_ = matrix(layout.embedding);
    if (layout.lm_head != WeightLayout::kNone) lm_head_ = matrix(layout.lm_head);
    if (layout.norm != WeightLayout::kNone) norm_ = vector(layout.norm);
    std::span<const float> factors;
    if (layout.rope_factors != WeightLayout::kNone)
      factors = {vector(layout.rope_factors), plan_.model.head_dim / 2};
    inv_freq_ = rotary_frequencies(source.config(), factors);
    return {};
  }

  Result<v1::StepResult> execute(const v1::Step& step) override {
    const int64_t start_ns = monotonic_ns();
    auto result = run(step);
    if (!result.ok()) return std::move(result).error().with_context(fmt::format("step {}", step.number()));
    result->set_number(step.number());
    result->set_compute_us((monotonic_ns() - start_ns) / 1000);
    return result;
  }

  void trust_kv() override { kv_.trust(); }
  std::string numerics_class() const override { return numerics_class_here(exact_); }

  void measure(StepProfile* profile) override { shared_.profile = profile; }

  std::vector<float> TEST_last_logits() const override { return logits_; }

 private:
  Result<v1::StepResult> run(const v1::Step& step) {
    BP_ASSIGN(const StepContext context, admit(step));
    const Deadline deadline = Deadline::in_ms(limits::kStepDeadlineMs);
    work_.hidden.resize(size_t(context.tokens()) * plan_.model.hidden);
    if (shard_.has_embedding) {
      BP_TRY(embed(step, deadline));
    } else {
      BP_TRY(pp_->recv(std::as_writable_bytes(std::span(work_.hidden)), shard_.pp_rank - 1, deadline));
    }
    rotary_table(inv_freq_, context.positions, work_.cos, work_.sin);
    for (LlamaLayer& layer : layers_) BP_TRY(layer.run(context, deadline));
    if (!shard_.has_lm_head) {
      BP_TRY(pp_->send(std::as_bytes(std::span(work_.hidden)), shard_.pp_rank + 1, deadline));
      return v1::StepResult{};
    }
    return sample(step, context, deadline);
  }

  /// Checks everything that the step says before anything is computed.
  Result<StepContext> admit(const v1::Step& step) {
    StepContext c;
    c.step = &step;
    uint64_t total = 0;
    for (const auto& s : step.sequences()) total += static_cast<uint64_t>(s.tokens_size());
    if (total == 0 || total > kStepTokensMax)
      return invalid(fmt::format("tokens: found {}, expected 1 to {}", total, kStepTokensMax));
    for (int i = 0; i < step.sequences_size(); ++i) {
      const v1::StepSequence& s = step.sequences(i);
      const auto n = static_cast<uint32_t>(s.tokens_size());
      const uint64_t end = uint64_t(s.position()) + n;
      if (n == 0) return invalid(fmt::format("sequence {}: found no tokens", s.sequence_id()));
      if (end > shared_.config.max_position)
        return invalid(fmt::format("sequence {}: position: found {}, expected at most {}", s.sequence_id(), end,
                                   shared_.config.max_position));
      for (const uint32_t t : s.tokens())
        if (t >= plan_.model.vocab)
          return invalid(fmt::format("sequence {}: token: found {}, expected less than {}", s.sequence_id(), t,
                                     plan_.model.vocab));
      c.first_token.push_back(c.tokens());
      for (uint32_t t = 0; t < n; ++t) {
        c.positions.push_back(s.position() + t);
        c.sequence_of.push_back(static_cast<uint32_t>(i));
      }
    }
    for (const auto& copy : step.copies()) BP_TRY(kv_.copy(copy));
    for (const auto& s : step.sequences()) BP_TRY(kv_.admit(s));
    return c;
  }

  Status embed(const v1::Step& step, Deadline deadline) {
    StepTimer timer(shared_.profile, StepOp::kEmbed);
    std::vector<uint32_t> tokens;
    for (const auto& s : step.sequences()) tokens.insert(tokens.end(), s.tokens().begin(), s.tokens().end());
    const uint32_t hidden = plan_.model.hidden;
    pool_.run(static_cast<uint32_t>(tokens.size()), [&](uint32_t i, uint32_t) {
      const std::span<float> row(work_.hidden.data() + size_t(i) * hidden, hidden);
      if (tokens[i] >= shard_.vocab.begin && tokens[i] < shard_.vocab.end)
        unpack_row(embedding_, tokens[i] - shard_.vocab.begin, row);
      else
        std::memset(row.data(), 0, row.size_bytes());
    });
    return group_.spread_rows(work_.hidden, deadline);
  }

  /// Logits of the last token of every sequence that samples, and the tokens drawn from them.
  Result<v1::StepResult> sample(const v1::Step& step, const StepContext& context, Deadline deadline) {
    std::vector<const v1::StepSequence*> sampled;
    std::vector<float> rows;
    const uint32_t hidden = plan_.model.hidden, vocab = plan_.model.vocab;
    for (int i = 0; i < step.sequences_size(); ++i) {
      const v1::StepSequence& s = step.sequences(i);
      if (!s.sample()) continue;
      const uint32_t last = context.first_token[static_cast<size_t>(i)] + static_cast<uint32_t>(s.tokens_size()) - 1;
      const float* x = work_.hidden.data() + size_t(last) * hidden;
      rows.insert(rows.end(), x, x + hidden);
      sampled.push_back(&s);
    }
    v1::StepResult result;
    logits_.clear();
    if (sampled.empty()) return result;
    const auto count = static_cast<uint32_t>(sampled.size());
    lm_head(rows.data(), count);
    BP_TRY(group_.gather_vocab(local_logits_, count, logits_, deadline));
    if (shard_.tp_rank != 0) return result;
    return draw(sampled, vocab);
  }

  /// local_logits_ from `count` rows of the residual stream.
  void lm_head(const float* rows, uint32_t count) {
    StepTimer timer(shared_.profile, StepOp::kLmHead);
    timer.read(lm_head_, count);
    const ActivationForms forms = ActivationForms{false, /*wide=*/true}.serve(lm_head_.type);
    const Activations x = work_.normed.shape(count, plan_.model.hidden, forms);
    normalise(*shared_.ops, pool_, rows, norm_, shared_.config.rms_norm_eps, x);
    local_logits_.resize(size_t(count) * lm_head_.rows);
    const MatmulJob job{&lm_head_, local_logits_.data(), lm_head_.rows};
    run_matmuls(*shared_.ops, pool_, {&job, 1}, x);
  }

  Result<v1::StepResult> draw(const std::vector<const v1::StepSequence*>& sampled, uint32_t vocab) {
    StepTimer timer(shared_.profile, StepOp::kSample);
    std::vector<Result<v1::SampledToken>> tokens(sampled.size(), Result<v1::SampledToken>(v1::SampledToken{}));
    pool_.run(static_cast<uint32_t>(sampled.size()), [&](uint32_t i, uint32_t) {
      const v1::StepSequence& s = *sampled[i];
      const std::span<const float> row(logits_.data() + size_t(i) * vocab, vocab);
      tokens[i] = sample_token(*shared_.ops, row, s.sampling(), s.position() + static_cast<uint32_t>(s.tokens_size()));
    });
    v1::StepResult result;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (!tokens[i].ok())
        return Error(tokens[i].error()).with_context(fmt::format("sequence {}", sampled[i]->sequence_id()));
      tokens[i]->set_sequence_id(sampled[i]->sequence_id());
      *result.add_tokens() = std::move(*tokens[i]);
    }
    return result;
  }

  const plan::ShardPlan plan_;
  const plan::RankShard shard_;
  const bool exact_;
  RunnerMemory memory_;
  Communicator* pp_;
  ThreadPool pool_;
  KvCache kv_;
  TensorGroup group_;
  Workspace work_;
  LlamaLayer::Shared shared_;
  std::vector<LlamaLayer> layers_;
  PackedMatrix embedding_, lm_head_;
  const float* norm_ = nullptr;
  std::vector<float> inv_freq_;
  std::vector<float> local_logits_, logits_;
};

Status check_options(const RunnerOptions& o, const RunnerComms& comms, const RunnerMemory& memory) {
  if (o.kv_block_tokens == 0 || o.kv_block_tokens % 16 != 0 || o.kv_block_tokens > 4096)
    return invalid(fmt::format("kv_block_tokens: found {}, expected a multiple of 16", o.kv_block_tokens));
  if (o.kv_blocks == 0) return invalid("kv_blocks: found 0, expected at least 1");
  if (o.threads == 0 || o.threads > kThreadsMax)
    return invalid(fmt::format("threads: found {}, expected 1 to {}", o.threads, kThreadsMax));
  if (o.plan.tp_size > 1 && (!comms.tp || comms.tp->size() != o.plan.tp_size ||
                             comms.tp->rank() != o.plan.ranks[o.rank].tp_rank))
    return invalid(fmt::format("tensor communicator: expected {} ranks, this one as its tp_rank", o.plan.tp_size));
  if (o.plan.pp_size > 1 && (!comms.pp || comms.pp->size() != o.plan.pp_size ||
                             comms.pp->rank() != o.plan.ranks[o.rank].pp_rank))
    return invalid(fmt::format("pipeline communicator: expected {} ranks, this one as its pp_rank", o.plan.pp_size));
  const uint64_t kv = kv_segment_bytes(o.plan, o.rank, o.kv_block_tokens, o.kv_blocks, o.exact);
  if (memory.kv.size() < kv)
    return Error{ErrorCode::kDoesNotFit, fmt::format("KV segment: found {} bytes, expected {}", memory.kv.size(), kv),
                 {}};
  return {};
}

}  // namespace

std::string numerics_class_here(bool exact) {
  return fmt::format("{}/{}", best_ops().name(), exact ? "exact-f32" : "fixed-order-q8-q16");
}

Result<uint64_t> weights_segment_bytes(const WeightSource& source, const plan::ShardPlan& plan, uint32_t rank,
                                       bool exact) {
  BP_ASSIGN(const WeightLayout layout, make_weight_layout(source, plan, rank, exact));
  return kSegmentHeaderBytes + layout.payload_bytes;
}

uint64_t kv_segment_bytes(const plan::ShardPlan& plan, uint32_t rank, uint32_t block_tokens, uint32_t blocks,
                          bool exact) {
  return kv_shape(plan, rank, block_tokens, blocks, exact).size_bytes();
}

Result<std::unique_ptr<ModelRunner>> ModelRunner::load(const WeightSource& source, const RunnerOptions& options,
                                                       RunnerMemory memory, RunnerComms comms,
                                                       const std::function<void(uint64_t, uint64_t)>& progress,
                                                       bool* reused) {
  BP_ASSIGN(const WeightLayout layout, make_weight_layout(source, options.plan, options.rank, options.exact));
  BP_TRY(check_options(options, comms, memory));
  auto runner = std::make_unique<LlamaRunner>(source, options, memory, comms);
  BP_TRY(runner->load_weights(source, layout, progress, reused));
  return std::unique_ptr<ModelRunner>(std::move(runner));
}

}  // namespace bp::rt
