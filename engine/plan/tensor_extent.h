// Bytes of a tensor and how tensors share a file: checks that both header parsers make. Internal.
#pragma once
#include <vector>

#include "engine/base/result.h"
#include "engine/plan/model_header.h"

namespace bp::plan {

/// Sets size_bytes from type and shape. kCorruptData: a zero dimension, a product beyond 2^63, a
/// row that is not whole blocks.
Status set_tensor_size(TensorInfo& tensor);

/// kCorruptData when two tensors share a byte or a name. With `gapless`, also when bytes of
/// [begin, end) belong to none.
Status check_extents(const std::vector<TensorInfo>& tensors, uint64_t begin, uint64_t end,
                     bool gapless);

}  // namespace bp::plan
