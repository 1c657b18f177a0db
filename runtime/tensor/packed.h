// PackedMatrix: weights as the kernels read them. Made once at load; the same layout for every instruction
// set, so that a segment can be read by any build.
//
// A matrix [rows, cols] is cut into leaves of `leaf_cols` columns (one leaf: the whole width, for matrices
// whose rows are computed whole). Leaf after leaf, and within a leaf 16 rows (a group) after 16 rows:
//   kF32, kF16   [cols of leaf][16 rows] elements
//   kBF16        [cols of leaf / 2][16 rows][2] elements
//   kQ8          by two blocks of 32 columns: [2][8][16 rows][4] unsigned bytes (weight + 128), [2][16] f16
//                scale d; a last block without a pair [8][16][4], [16] and 32 bytes of nothing
//   kQ4          by block of 32 columns: [4][16 rows][4] bytes: low nibble = quad j, high nibble = quad j + 4;
//                then [16] f16 scale d, [16] f16 minimum m;  weight = q * d + m
// so that a kernel reads a group as one stream.
// The last group is padded with rows of zero; every group starts on 64 bytes. A column or row cut that
// falls between leaves or groups is a cut of the byte array: nothing is repacked.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "engine/base/result.h"
#include "engine/plan/model_header.h"

namespace bp::rt {

inline constexpr uint32_t kGroupRows = 16;
inline constexpr uint32_t kQuantBlock = 32;

enum class PackType : uint8_t { kF32, kF16, kBF16, kQ8, kQ4 };
const char* pack_type_name(PackType t);
inline bool is_quantised(PackType t) { return t == PackType::kQ8 || t == PackType::kQ4; }

/// Where block b of a group of `blocks` begins, and its scales.
[[gnu::always_inline]] inline size_t q8_block_at(uint32_t b) { return size_t(b / 2) * 1088 + b % 2 * 512; }
[[gnu::always_inline]] inline size_t q8_scale_at(uint32_t b, uint32_t blocks) {
  return size_t(b / 2) * 1088 + ((b | 1) < blocks ? 1024 : 512) + b % 2 * 32;
}
[[gnu::always_inline]] inline size_t q4_block_at(uint32_t b) { return size_t(b) * 320; }
inline constexpr size_t kQ4ScaleAt = 256;   // within a block
/// Element of a BF16 group.
[[gnu::always_inline]] inline size_t bf16_at(uint32_t col, uint32_t row) {
  return (size_t(col / 2) * kGroupRows + row) * 2 + col % 2;
}

/// Bytes of one group of `cols` columns (64-byte multiple).
size_t group_bytes(PackType type, uint32_t cols);

// Its members are always inlined: files of several instruction sets use them.
struct PackedMatrix {
  PackType type = PackType::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint32_t leaf_cols = 0;          // == cols when rows are computed whole
  const std::byte* data = nullptr; // not owned

  [[gnu::always_inline]] uint32_t groups() const { return (rows + kGroupRows - 1) / kGroupRows; }
  [[gnu::always_inline]] uint32_t leaves() const { return (cols + leaf_cols - 1) / leaf_cols; }
  [[gnu::always_inline]] uint32_t leaf_width(uint32_t leaf) const {
    const uint32_t begin = leaf * leaf_cols;
    return cols - begin < leaf_cols ? cols - begin : leaf_cols;
  }
  /// First byte of a group within a leaf. All leaves before the last are full.
  [[gnu::always_inline]] const std::byte* group(uint32_t leaf, uint32_t g) const {
    return data + size_t(leaf) * groups() * group_bytes(type, leaf_cols) +
           size_t(g) * group_bytes(type, leaf_width(leaf));
  }
  size_t size_bytes() const;
};

/// The pack type of weights stored as `stored`: exact mode keeps FP32, and quantised blocks must not be
/// cut by a leaf.
PackType pack_type_for(plan::WeightType stored, bool exact, uint32_t leaf_cols);

/// Where the rows of a packed matrix come from: a row-major tensor of a file, columns
/// [col_begin, col_begin + cols), row i of the matrix being row source_row(i) of the tensor.
struct PackSource {
  plan::WeightType type = plan::WeightType::kF32;
  uint64_t tensor_cols = 0;
  uint64_t col_begin = 0;
  const std::byte* bytes = nullptr;
  std::function<uint64_t(uint32_t)> source_row;
};

/// Packs groups [group_begin, group_end) of one leaf into `out` (laid out as `shape`, whose data is not
/// read). kCorruptData when a scale or value is not finite, with the row.
Status pack_groups(const PackSource& source, const PackedMatrix& shape, uint32_t leaf, uint32_t group_begin,
                   uint32_t group_end, std::byte* out);

/// One row of a packed matrix of a single leaf as FP32 (embedding lookup). out: [cols]
void unpack_row(const PackedMatrix& m, uint32_t row, std::span<float> out);

}  // namespace bp::rt
