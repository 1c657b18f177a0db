#include "engine/plan/shard_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/base/limits.h"

namespace bp::plan {
namespace {

uint32_t ceil_div(uint64_t a, uint64_t b) { return static_cast<uint32_t>((a + b - 1) / b); }

/// Part `i` of `count` units dealt to `parts`; earlier parts get the larger share.
Interval deal(uint32_t count, uint32_t parts, uint32_t i) {
  return {ceil_div(uint64_t{i} * count, parts), ceil_div(uint64_t{i + 1} * count, parts)};
}

/// The same for units of `unit` elements; the last one may be short.
Interval deal_units(uint32_t elements, uint32_t unit, uint32_t parts, uint32_t i) {
  Interval n = deal(ceil_div(elements, unit), parts, i);
  return {std::min(elements, n.begin * unit), std::min(elements, n.end * unit)};
}

Status check_shape(const ModelShape& m) {
  struct Field {
    const char* name;
    uint32_t value, max;
  };
  const Field fields[] = {{"layers", m.layers, limits::kModelLayersMax},
                          {"hidden size", m.hidden, limits::kModelWidthMax},
                          {"intermediate size", m.intermediate, limits::kModelWidthMax},
                          {"heads", m.heads, limits::kModelHeadsMax},
                          {"KV heads", m.kv_heads, limits::kModelHeadsMax},
                          {"head dimension", m.head_dim, limits::kModelHeadDimMax},
                          {"vocabulary", m.vocab, limits::kModelWidthMax}};
  for (const Field& f : fields) {
    if (f.value < 1 || f.value > f.max) {
      return Error{ErrorCode::kInvalidArgument,
                   fmt::format("model {}: found {}, expected 1 to {}", f.name, f.value, f.max),
                   {}};
    }
  }
  if (m.heads % m.kv_heads != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("model heads: found {} with {} KV heads, expected a multiple of them",
                             m.heads, m.kv_heads),
                 {}};
  }
  return {};
}

Status check_layout(const ModelShape& m, uint32_t tp_size, uint32_t pp_size) {
  if (tp_size < 1 || pp_size < 1 || uint64_t{tp_size} * pp_size > limits::kRanksMax) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("layout: found TP {} x PP {}, expected 1 to {} ranks", tp_size,
                             pp_size, limits::kRanksMax),
                 {}};
  }
  const uint32_t leaves = ceil_div(m.intermediate, kDownLeafColumns);
  const uint32_t chunks = ceil_div(m.vocab, kVocabChunkRows);
  const uint32_t most = std::min({m.heads, leaves, chunks});
  if (tp_size > most) {
    return Error{
        ErrorCode::kDoesNotFit,
        fmt::format("TP {}: the model has {} Q heads, {} leaves of {} FFN columns and {} chunks of "
                    "{} vocabulary rows; at most TP {} fits",
                    tp_size, m.heads, leaves, kDownLeafColumns, chunks, kVocabChunkRows, most),
        {}};
  }
  if (pp_size > m.layers) {
    return Error{ErrorCode::kDoesNotFit,
                 fmt::format("PP {}: the model has {} layers; at most PP {} fits", pp_size,
                             m.layers, m.layers),
                 {}};
  }
  return {};
}

/// Layers of the last pipeline stage, which also computes lm_head: the count that makes the slowest
/// stage fastest, costs taken as multiply-adds per token.
uint32_t last_stage_layers(const ModelShape& m, uint32_t pp_size) {
  const uint64_t attention = 2ull * m.hidden * m.head_dim * (uint64_t{m.heads} + m.kv_heads);
  const uint64_t layer_cost = attention + 3ull * m.hidden * m.intermediate;
  const uint64_t head_cost = uint64_t{m.hidden} * m.vocab;
  uint32_t best = 1;
  uint64_t best_cost = UINT64_MAX;
  for (uint32_t last = 1; last + (pp_size - 1) <= m.layers; ++last) {
    const uint64_t others = ceil_div(m.layers - last, pp_size - 1) * layer_cost;
    const uint64_t cost = std::max(others, last * layer_cost + head_cost);
    if (cost <= best_cost) {
      best_cost = cost;
      best = last;
    }
  }
  return best;
}

Interval stage_layers(const ModelShape& m, uint32_t pp_size, uint32_t pp_rank) {
  if (pp_size == 1) return {0, m.layers};
  const uint32_t before_last = m.layers - last_stage_layers(m, pp_size);
  if (pp_rank == pp_size - 1) return {before_last, m.layers};
  return deal(before_last, pp_size - 1, pp_rank);
}

}  // namespace

Result<ShardPlan> make_shard_plan(const ModelShape& model, uint32_t tp_size, uint32_t pp_size) {
  BP_TRY(check_shape(model));
  BP_TRY(check_layout(model, tp_size, pp_size));
  ShardPlan plan{model, tp_size, pp_size, {}};
  const uint32_t group = model.heads / model.kv_heads;
  for (uint32_t pp = 0; pp < pp_size; ++pp) {
    const Interval layers = stage_layers(model, pp_size, pp);
    for (uint32_t tp = 0; tp < tp_size; ++tp) {
      RankShard r;
      r.rank = pp * tp_size + tp;
      r.tp_rank = tp;
      r.pp_rank = pp;
      r.layers = layers;
      r.q_heads = deal(model.heads, tp_size, tp);
      r.kv_heads = {r.q_heads.begin / group, ceil_div(r.q_heads.end, group)};
      r.ffn = deal_units(model.intermediate, kDownLeafColumns, tp_size, tp);
      r.vocab = deal_units(model.vocab, kVocabChunkRows, tp_size, tp);
      r.has_embedding = pp == 0;
      r.has_lm_head = pp == pp_size - 1;
      plan.ranks.push_back(r);
    }
  }
  return plan;
}

}  // namespace bp::plan
