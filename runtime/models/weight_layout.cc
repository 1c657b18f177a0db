#include "runtime/models/weight_layout.h"

#include <fmt/format.h>

namespace bp::rt {
namespace {

constexpr uint64_t kAlign = 64;

/// Appends entries one after another.
class Builder {
 public:
  Builder(const WeightSource& source, const plan::ShardPlan& plan, uint32_t rank, bool exact)
      : source_(source), model_(plan.model), shard_(plan.ranks[rank]), exact_(exact) {}

  Result<WeightLayout> build() {
    out_.slice = fmt::format("layers {}-{} q {}-{} kv {}-{} ffn {}-{} vocab {}-{} embed {} head {} {}",
                             shard_.layers.begin, shard_.layers.end, shard_.q_heads.begin, shard_.q_heads.end,
                             shard_.kv_heads.begin, shard_.kv_heads.end, shard_.ffn.begin, shard_.ffn.end,
                             shard_.vocab.begin, shard_.vocab.end, shard_.has_embedding, shard_.has_lm_head,
                             exact_ ? "exact" : "packed in streams");
    if (shard_.has_embedding) {
      BP_ASSIGN(out_.embedding, vocabulary("model.embed_tokens"));
    }
    if (source_.config().rope_scaling.type == "tensor") {
      BP_ASSIGN(out_.rope_factors, vector("rope_freqs", model_.head_dim / 2));
    }
    for (uint32_t layer = shard_.layers.begin; layer < shard_.layers.end; ++layer) BP_TRY(add_layer(layer));
    if (shard_.has_lm_head) {
      BP_ASSIGN(out_.norm, vector("model.norm", model_.hidden));
      BP_TRY(add_lm_head());
    }
    return std::move(out_);
  }

 private:
  Status add_lm_head() {
    if (!model_.tied_embedding) {
      BP_ASSIGN(out_.lm_head, vocabulary("lm_head"));
    } else if (shard_.has_embedding) {
      out_.lm_head = out_.embedding;
    } else {
      BP_ASSIGN(out_.lm_head, vocabulary("model.embed_tokens"));
    }
    return {};
  }

  Status add_layer(uint32_t layer) {
    const std::string p = fmt::format("model.layers.{}.", layer);
    const uint32_t dim = model_.head_dim, hidden = model_.hidden;
    const plan::Interval q = scaled(shard_.q_heads, dim), kv = scaled(shard_.kv_heads, dim);
    const uint32_t interleaved = source_.config().rope_interleaved ? dim : 0;
    WeightLayout::Layer l{};
    BP_ASSIGN(l.attn_norm, vector(p + "input_layernorm", hidden));
    BP_ASSIGN(l.q, rows(p + "self_attn.q_proj", q, hidden, interleaved));
    BP_ASSIGN(l.k, rows(p + "self_attn.k_proj", kv, hidden, interleaved));
    BP_ASSIGN(l.v, rows(p + "self_attn.v_proj", kv, hidden, 0));
    BP_ASSIGN(l.o, columns(p + "self_attn.o_proj", q, hidden, dim));
    BP_ASSIGN(l.ffn_norm, vector(p + "post_attention_layernorm", hidden));
    BP_ASSIGN(l.gate, rows(p + "mlp.gate_proj", shard_.ffn, hidden, 0));
    BP_ASSIGN(l.up, rows(p + "mlp.up_proj", shard_.ffn, hidden, 0));
    BP_ASSIGN(l.down, columns(p + "mlp.down_proj", shard_.ffn, hidden, plan::kDownLeafColumns));
    out_.layers.push_back(l);
    return {};
  }

  static plan::Interval scaled(plan::Interval i, uint32_t by) { return {i.begin * by, i.end * by}; }

  Result<size_t> vocabulary(const std::string& name) { return rows(name, shard_.vocab, model_.hidden, 0); }

  /// Rows computed whole.
  Result<size_t> rows(const std::string& name, plan::Interval rows, uint32_t cols, uint32_t interleaved) {
    return matrix(name, rows, {0, cols}, cols, interleaved);
  }
  /// All rows, columns cut between leaves.
  Result<size_t> columns(const std::string& name, plan::Interval cols, uint32_t rows, uint32_t leaf) {
    return matrix(name, {0, rows}, cols, leaf, 0);
  }

  Result<size_t> matrix(const std::string& name, plan::Interval rows, plan::Interval cols, uint32_t leaf,
                        uint32_t interleaved) {
    BP_ASSIGN(const plan::TensorInfo info, source_.find(name));
    LayoutEntry e;
    e.name = name;
    e.shape.type = pack_type_for(info.type, exact_ || cols.size() % 2 != 0, leaf);
    e.shape.rows = rows.size();
    e.shape.cols = cols.size();
    e.shape.leaf_cols = leaf;
    e.row_begin = rows.begin;
    e.col_begin = cols.begin;
    e.interleaved_dim = interleaved;
    e.size_bytes = e.shape.size_bytes();
    return add(std::move(e));
  }

  Result<size_t> vector(const std::string& name, uint32_t size) {
    BP_ASSIGN(const plan::TensorInfo info, source_.find(name));
    if (plan::block_elements(info.type) != 1 || info.shape != std::vector<uint64_t>{size})
      return Error{ErrorCode::kUnsupported,
                   fmt::format("tensor {}: found type {}, expected F32, F16 or BF16 [{}]", info.name,
                               plan::weight_type_name(info.type), size), {}};
    LayoutEntry e;
    e.name = name;
    e.vector = true;
    e.shape.rows = 1;
    e.shape.cols = e.shape.leaf_cols = size;
    e.size_bytes = uint64_t(size) * sizeof(float);
    return add(std::move(e));
  }

  size_t add(LayoutEntry e) {
    e.offset = out_.payload_bytes;
    out_.payload_bytes += (e.size_bytes + kAlign - 1) / kAlign * kAlign;
    out_.entries.push_back(std::move(e));
    return out_.entries.size() - 1;
  }

  const WeightSource& source_;
  const plan::ModelShape& model_;
  const plan::RankShard& shard_;
  bool exact_;
  WeightLayout out_;
};

bool same_model(const plan::ModelShape& a, const plan::ModelShape& b) {
  return a.layers == b.layers && a.hidden == b.hidden && a.intermediate == b.intermediate && a.heads == b.heads &&
         a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.vocab == b.vocab &&
         a.tied_embedding == b.tied_embedding;
}

}  // namespace

Result<WeightLayout> make_weight_layout(const WeightSource& source, const plan::ShardPlan& plan, uint32_t rank,
                                        bool exact) {
  if (rank >= plan.ranks.size())
    return Error{ErrorCode::kInvalidArgument, fmt::format("rank: found {}, expected less than {}", rank,
                                                          plan.ranks.size()), {}};
  if (!same_model(plan.model, source.config().shape))
    return Error{ErrorCode::kInvalidArgument, "plan: made for a model of another shape than the weights have", {}};
  if (plan.model.head_dim % 16 != 0)
    return Error{ErrorCode::kUnsupported, fmt::format("head_dim: found {}, expected a multiple of 16",
                                                      plan.model.head_dim), {}};
  return Builder(source, plan, rank, exact).build();
}

}  // namespace bp::rt
