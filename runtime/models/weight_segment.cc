#include "runtime/models/weight_segment.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "runtime/tensor/half.h"
#include "runtime/tensor/huge_pages.h"

namespace bp::rt {
namespace {

constexpr char kMagic[8] = {'B', 'P', 'W', 'E', 'I', 'G', 'H', 'T'};
constexpr uint32_t kLayoutVersion = 1;   // of packed.h and of the order of entries
constexpr uint32_t kGroupsPerItem = 16;

struct SegmentHeader {
  char magic[8];
  uint32_t version;
  uint32_t complete;
  uint64_t payload_bytes;
  uint64_t key[2];
};
static_assert(sizeof(SegmentHeader) <= kSegmentHeaderBytes);

/// FNV-1a with two offsets: tells apart segments of one machine, nothing hostile.
uint64_t fnv(const std::string& text, uint64_t hash) {
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return hash;
}

SegmentHeader expected_header(const WeightSource& source, const WeightLayout& layout) {
  SegmentHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kLayoutVersion;
  h.payload_bytes = layout.payload_bytes;
  const std::string key = source.content_key() + "|" + layout.slice;
  h.key[0] = fnv(key, 0xcbf29ce484222325ull);
  h.key[1] = fnv(key, 0x84222325cbf29ce4ull);
  return h;
}

bool holds(const std::byte* segment, const SegmentHeader& expected) {
  SegmentHeader found;
  std::memcpy(&found, segment, sizeof found);
  const bool complete = found.complete == 1;
  found.complete = expected.complete;
  return complete && std::memcmp(&found, &expected, sizeof found) == 0;
}

Status fill_vector(const WeightSource& source, const plan::TensorInfo& info, const LayoutEntry& e, std::byte* to) {
  const std::span<const std::byte> from = source.bytes(info);
  for (uint32_t i = 0; i < e.shape.cols; ++i) {
    float v;
    uint16_t h;
    if (info.type == plan::WeightType::kF32) {
      std::memcpy(&v, from.data() + size_t(i) * 4, 4);
    } else {
      std::memcpy(&h, from.data() + size_t(i) * 2, 2);
      v = info.type == plan::WeightType::kF16 ? f16_to_float(h) : bf16_to_float(h);
    }
    if (!std::isfinite(v))
      return Error{ErrorCode::kCorruptData, fmt::format("element {} is not a finite number", i), {}};
    std::memcpy(to + size_t(i) * 4, &v, 4);
  }
  return {};
}

/// The tensor's row that is row `row` of the packed matrix. GGUF's llama converter stores row j * d/2 + i of
/// a head (j = 0, 1) at 2i + j; the kernels rotate (i, i + d/2).
uint64_t source_row(const LayoutEntry& e, uint32_t row) {
  const uint32_t at = e.row_begin + row, dim = e.interleaved_dim;
  if (dim == 0) return at;
  const uint32_t head = at / dim, r = at % dim;
  return uint64_t(head) * dim + size_t(r % (dim / 2)) * 2 + r / (dim / 2);
}

Status fill_matrix(const WeightSource& source, const plan::TensorInfo& info, const LayoutEntry& e, std::byte* to,
                   ThreadPool& pool) {
  const PackSource from{info.type, info.shape[1], e.col_begin, source.bytes(info).data(),
                        [&e](uint32_t row) { return source_row(e, row); }};
  const uint32_t groups = e.shape.groups(), per_leaf = (groups + kGroupsPerItem - 1) / kGroupsPerItem;
  std::mutex mutex;
  std::optional<Error> first_error;
  pool.run(per_leaf * e.shape.leaves(), [&](uint32_t item, uint32_t) {
    const uint32_t g = item % per_leaf * kGroupsPerItem;
    Status s = pack_groups(from, e.shape, item / per_leaf, g, std::min(groups, g + kGroupsPerItem), to);
    if (s.ok()) return;
    std::lock_guard lock(mutex);
    if (!first_error) first_error = s.error();
  });
  if (first_error) return *first_error;
  return {};
}

}  // namespace

Status fill_segment(const WeightSource& source, const WeightLayout& layout, std::span<std::byte> segment,
                    ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress, bool* reused) {
  const uint64_t needed = kSegmentHeaderBytes + layout.payload_bytes;
  if (segment.size() < needed)
    return Error{ErrorCode::kDoesNotFit,
                 fmt::format("weights segment: found {} bytes, expected {}", segment.size(), needed), {}};
  SegmentHeader header = expected_header(source, layout);
  const bool held = holds(segment.data(), header);
  if (reused) *reused = held;
  if (held) {
    if (progress) progress(layout.payload_bytes, layout.payload_bytes);
    return {};
  }
  use_huge_pages(segment);
  std::memcpy(segment.data(), &header, sizeof header);   // complete = 0
  uint64_t done = 0;
  for (const LayoutEntry& e : layout.entries) {
    BP_ASSIGN(const plan::TensorInfo info, source.find(e.name));
    std::byte* to = segment.data() + kSegmentHeaderBytes + e.offset;
    Status filled = e.vector ? fill_vector(source, info, e, to) : fill_matrix(source, info, e, to, pool);
    if (!filled.ok()) return Error(filled.error()).with_context("tensor " + info.name);
    done += e.size_bytes;
    if (progress) progress(done, layout.payload_bytes);
  }
  std::atomic_ref<uint32_t> complete(reinterpret_cast<SegmentHeader*>(segment.data())->complete);
  complete.store(1, std::memory_order_release);
  return {};
}

PackedMatrix segment_matrix(const WeightLayout& layout, size_t entry, std::span<const std::byte> segment) {
  PackedMatrix m = layout.entries[entry].shape;
  m.data = segment.data() + kSegmentHeaderBytes + layout.entries[entry].offset;
  return m;
}

const float* segment_vector(const WeightLayout& layout, size_t entry, std::span<const std::byte> segment) {
  return reinterpret_cast<const float*>(segment.data() + kSegmentHeaderBytes + layout.entries[entry].offset);
}

}  // namespace bp::rt
