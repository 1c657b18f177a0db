// ShardPlan: who holds what of a model under tensor x pipeline parallelism. Pure.
//
// Uneven splits are normal: 9 Q heads over 2 ranks are 5 + 4, and the KV head whose Q heads are cut is
// held by both. Sums across a cut are made of canonical leaves (one Q head for o_proj; kDownLeafColumns
// columns for down_proj), so that every cut gives the same tokens: cuts fall only between leaves.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/base/result.h"

namespace bp::plan {

inline constexpr uint32_t kDownLeafColumns = 128;
inline constexpr uint32_t kVocabChunkRows = 256;   // vocabulary cuts fall on multiples of it

/// Half-open interval.
struct Interval {
  uint32_t begin = 0;
  uint32_t end = 0;
  uint32_t size() const { return end - begin; }
  bool operator==(const Interval&) const = default;
};

/// What the plan needs to know of a decoder-only model.
struct ModelShape {
  uint32_t layers = 0;
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab = 0;
  bool tied_embedding = false;
};

struct RankShard {
  uint32_t rank = 0;       // pp_rank * tp_size + tp_rank
  uint32_t tp_rank = 0;
  uint32_t pp_rank = 0;
  Interval layers;         // global layer numbers
  Interval q_heads;        // global; o_proj columns follow
  Interval kv_heads;       // every KV head that one of q_heads uses
  Interval ffn;            // columns of gate/up, rows... in multiples of kDownLeafColumns (the last may be short)
  Interval vocab;          // rows of embedding and lm_head
  bool has_embedding = false;  // first pipeline stage
  bool has_lm_head = false;    // last pipeline stage
};

struct ShardPlan {
  ModelShape model;
  uint32_t tp_size = 1;
  uint32_t pp_size = 1;
  std::vector<RankShard> ranks;  // by rank
};

/// kInvalidArgument: sizes zero or beyond limits.h, heads not a multiple of kv_heads; kDoesNotFit: more
/// tensor ranks than Q heads, down leaves or vocabulary chunks, more pipeline stages than layers. No
/// interval of a plan is empty. Layers are dealt by cost, lm_head counted; earlier ranks get the larger
/// share of heads, leaves and chunks.
Result<ShardPlan> make_shard_plan(const ModelShape& model, uint32_t tp_size, uint32_t pp_size);

}  // namespace bp::plan
