// WeightLayout: where each packed tensor of one rank's slice lies in its weights segment, and from which
// rows and columns of the model it is packed. Pure: from the model's header and the plan.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/plan/shard_plan.h"
#include "runtime/tensor/packed.h"
#include "runtime/weights/weight_source.h"

namespace bp::rt {

/// One tensor of the slice. A vector (norm weights, frequency factors) is kept as FP32 [cols].
struct LayoutEntry {
  std::string name;              // for WeightSource::find
  bool vector = false;
  PackedMatrix shape;            // data is null
  uint32_t row_begin = 0;        // of the tensor
  uint32_t col_begin = 0;
  uint32_t interleaved_dim = 0;  // not 0: rows of each head lie as RoPE pairs (2i, 2i + 1)
  uint64_t offset = 0;           // from the start of the payload
  uint64_t size_bytes = 0;
};

struct WeightLayout {
  struct Layer { size_t attn_norm, q, k, v, o, ffn_norm, gate, up, down; };  // indices of entries
  static constexpr size_t kNone = SIZE_MAX;

  std::vector<LayoutEntry> entries;
  std::vector<Layer> layers;     // of this rank
  size_t embedding = kNone;      // on the first stage
  size_t norm = kNone;           // on the last
  size_t lm_head = kNone;        // on the last; == embedding where both are one tensor of this rank
  size_t rope_factors = kNone;
  uint64_t payload_bytes = 0;
  std::string slice;             // names slice and form; equal texts mean equal layouts
};

/// kInvalidArgument: a rank beyond the plan, or a plan of another model; kUnsupported: a head size that
/// the kernels do not have; errors of WeightSource.
Result<WeightLayout> make_weight_layout(const WeightSource& source, const plan::ShardPlan& plan, uint32_t rank,
                                        bool exact);

}  // namespace bp::rt
