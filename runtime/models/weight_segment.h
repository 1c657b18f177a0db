// WeightSegment: the packed weights of one rank in memory that outlives it. A header tells whose they are;
// its complete flag is written last, so that a segment left half filled is filled anew.
#pragma once
#include <cstdint>
#include <functional>
#include <span>

#include "engine/base/result.h"
#include "runtime/models/weight_layout.h"
#include "runtime/parallel/thread_pool.h"

namespace bp::rt {

inline constexpr uint64_t kSegmentHeaderBytes = 4096;

/// Fills `segment` unless it already holds this very slice (then `*reused` is true and nothing is written).
/// `progress(done, total)` in bytes, on the caller's thread. kDoesNotFit when it is too small; kCorruptData
/// names the tensor.
Status fill_segment(const WeightSource& source, const WeightLayout& layout, std::span<std::byte> segment,
                    ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress, bool* reused);

/// Views into a filled segment.
PackedMatrix segment_matrix(const WeightLayout& layout, size_t entry, std::span<const std::byte> segment);
const float* segment_vector(const WeightLayout& layout, size_t entry, std::span<const std::byte> segment);

}  // namespace bp::rt
