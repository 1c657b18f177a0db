#include "engine/plan/tensor_extent.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <unordered_set>

namespace bp::plan {

Status set_tensor_size(TensorInfo& t) {
  const uint32_t elements = block_elements(t.type), bytes = block_bytes(t.type);
  uint64_t blocks = 1;
  for (size_t i = 0; i < t.shape.size(); ++i) {
    uint64_t n = t.shape[i];
    if (n == 0) {
      return Error{
          ErrorCode::kCorruptData,
          fmt::format("tensor {}: found dimension {} of size 0, expected at least 1", t.name, i),
          {}};
    }
    if (i + 1 == t.shape.size()) {
      if (n % elements != 0) {
        return Error{
            ErrorCode::kCorruptData,
            fmt::format(
                "tensor {}: found rows of {} elements, expected a multiple of {} for type {}",
                t.name, n, elements, weight_type_name(t.type)),
            {}};
      }
      n /= elements;
    }
    if (__builtin_mul_overflow(blocks, n, &blocks)) blocks = UINT64_MAX;
    if (blocks > INT64_MAX / bytes) {
      return Error{
          ErrorCode::kCorruptData,
          fmt::format("tensor {}: found dimensions whose product overflows, expected at most 2^63 "
                      "bytes",
                      t.name),
          {}};
    }
  }
  t.size_bytes = blocks * bytes;
  return {};
}

Status check_extents(const std::vector<TensorInfo>& tensors, uint64_t begin, uint64_t end,
                     bool gapless) {
  std::vector<const TensorInfo*> order;
  std::unordered_set<std::string_view> names;
  for (const TensorInfo& t : tensors) {
    if (!names.insert(t.name).second) {
      return Error{ErrorCode::kCorruptData,
                   fmt::format("tensor {}: found twice, expected once", t.name),
                   {}};
    }
    if (t.offset < begin || t.offset > end || t.size_bytes > end - t.offset) {
      return Error{
          ErrorCode::kCorruptData,
          fmt::format("tensor {}: found {} bytes at {}, expected them within bytes {} to {} of the "
                      "file",
                      t.name, t.size_bytes, t.offset, begin, end),
          {}};
    }
    order.push_back(&t);
  }
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  uint64_t at = begin;
  std::string_view previous = "the header";
  for (const TensorInfo* t : order) {
    if (t->offset < at || (gapless && t->offset != at)) {
      return Error{ErrorCode::kCorruptData,
                   fmt::format("tensor {}: found at byte {}, expected {} {} where {} ends", t->name,
                               t->offset, gapless ? "exactly" : "at least", at, previous),
                   {}};
    }
    at = t->offset + t->size_bytes;
    previous = t->name;
  }
  if (gapless && at != end) {
    return Error{
        ErrorCode::kCorruptData,
        fmt::format("file: found {} bytes, expected {} where the last tensor ends", end, at),
        {}};
  }
  return {};
}

}  // namespace bp::plan
