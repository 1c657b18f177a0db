#include "runtime/tensor/packed.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/tensor/half.h"

namespace bp::rt {
namespace {

using plan::WeightType;

size_t round64(size_t n) { return (n + 63) & ~size_t{63}; }

uint16_t load16(const std::byte* p) { uint16_t v; std::memcpy(&v, p, 2); return v; }
void store16(std::byte* p, uint16_t v) { std::memcpy(p, &v, 2); }
bool finite16(uint16_t h) { return (h & 0x7c00) != 0x7c00; }

Error not_finite(uint64_t row, const char* what) {
  return Error{ErrorCode::kCorruptData, "row " + std::to_string(row) + ": " + what + " is not a finite number", {}};
}

/// First byte of the 32-wide block `b` of a source row.
const std::byte* source_block(const PackSource& s, uint64_t row, uint64_t b) {
  const uint64_t blocks_per_row = s.tensor_cols / kQuantBlock;
  return s.bytes + (row * blocks_per_row + s.col_begin / kQuantBlock + b) * plan::block_bytes(s.type);
}

/// One stored element of a float type as FP32.
float source_float(const PackSource& s, uint64_t row, uint64_t col) {
  const uint64_t i = row * s.tensor_cols + s.col_begin + col;
  if (s.type == WeightType::kF32) { float v; std::memcpy(&v, s.bytes + i * 4, 4); return v; }
  const uint16_t h = load16(s.bytes + i * 2);
  return s.type == WeightType::kF16 ? f16_to_float(h) : bf16_to_float(h);
}

/// Dequantises one 32-wide block. Formulas: GGUF block layouts of Q8_0, Q4_0, Q4_1.
void dequantise_block(WeightType type, const std::byte* p, float* out) {
  const float d = f16_to_float(load16(p));
  if (type == WeightType::kQ8_0) {
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(p[2 + i]));
    return;
  }
  const bool has_min = type == WeightType::kQ4_1;
  const float m = has_min ? f16_to_float(load16(p + 2)) : 0.0f;
  const std::byte* q = p + (has_min ? 4 : 2);
  for (int i = 0; i < 16; ++i) {
    const int lo = static_cast<int>(q[i]) & 15, hi = static_cast<int>(q[i]) >> 4;
    out[i] = has_min ? d * float(lo) + m : d * float(lo - 8);
    out[i + 16] = has_min ? d * float(hi) + m : d * float(hi - 8);
  }
}

/// A whole source row slice as FP32. out: [cols]
void source_row_float(const PackSource& s, uint64_t row, uint32_t begin, uint32_t cols, float* out) {
  if (plan::block_elements(s.type) == 1) {
    for (uint32_t c = 0; c < cols; ++c) out[c] = source_float(s, row, begin + c);
    return;
  }
  float block[kQuantBlock];
  for (uint32_t c = 0; c < cols;) {                      // the slice may begin inside a block
    const uint64_t at = s.col_begin + begin + c;
    const uint64_t in_block = at % kQuantBlock;
    dequantise_block(s.type, s.bytes + (row * (s.tensor_cols / kQuantBlock) + at / kQuantBlock) *
                                           plan::block_bytes(s.type), block);
    for (uint64_t i = in_block; i < kQuantBlock && c < cols; ++i, ++c) out[c] = block[i];
  }
}

Status pack_float_group(const PackSource& s, const PackedMatrix& m, uint32_t begin, uint32_t cols, uint32_t g,
                        std::byte* out) {
  std::vector<float> row(cols);
  const size_t bytes = m.type == PackType::kF32 ? 4 : 2;
  for (uint32_t r = 0; r < kGroupRows && g * kGroupRows + r < m.rows; ++r) {
    const uint64_t from = s.source_row(g * kGroupRows + r);
    source_row_float(s, from, begin, cols, row.data());
    for (uint32_t c = 0; c < cols; ++c) {
      if (!std::isfinite(row[c])) return not_finite(from, "a weight");
      std::byte* to = out + (m.type == PackType::kBF16 ? bf16_at(c, r) : size_t(c) * kGroupRows + r) * bytes;
      if (m.type == PackType::kF32) std::memcpy(to, &row[c], 4);
      else if (m.type == PackType::kF16) store16(to, float_to_f16(row[c]));
      else store16(to, static_cast<uint16_t>(float_bits(row[c]) >> 16));  // stored as BF16: exact
    }
  }
  return {};
}

Status pack_q8_group(const PackSource& s, const PackedMatrix& m, uint32_t begin, uint32_t cols, uint32_t g,
                     std::byte* out) {
  const uint32_t blocks = cols / kQuantBlock;
  for (uint32_t b = 0; b < blocks; ++b)
    std::memset(out + q8_block_at(b), 0x80, 512);        // the padding rows are zero weights
  for (uint32_t r = 0; r < kGroupRows && g * kGroupRows + r < m.rows; ++r) {
    const uint64_t from = s.source_row(g * kGroupRows + r);
    for (uint32_t b = 0; b < blocks; ++b) {
      const std::byte* p = source_block(s, from, begin / kQuantBlock + b);
      if (!finite16(load16(p))) return not_finite(from, "a scale");
      store16(out + q8_scale_at(b, blocks) + r * 2, load16(p));
      for (uint32_t j = 0; j < 8; ++j) {
        uint32_t quad;
        std::memcpy(&quad, p + 2 + j * 4, 4);
        quad ^= 0x80808080u;
        std::memcpy(out + q8_block_at(b) + j * 64 + r * 4, &quad, 4);
      }
    }
  }
  return {};
}

/// Quads (4 consecutive weights) j and j + 4 of a block share the bytes of packed quad j.
Status pack_q4_group(const PackSource& s, const PackedMatrix& m, uint32_t begin, uint32_t cols, uint32_t g,
                     std::byte* out) {
  const uint32_t blocks = cols / kQuantBlock;
  const bool has_min = s.type == WeightType::kQ4_1;
  for (uint32_t r = 0; r < kGroupRows && g * kGroupRows + r < m.rows; ++r) {
    const uint64_t from = s.source_row(g * kGroupRows + r);
    for (uint32_t b = 0; b < blocks; ++b) {
      const std::byte* p = source_block(s, from, begin / kQuantBlock + b);
      const uint16_t d = load16(p);
      const uint16_t minimum = has_min ? load16(p + 2) : float_to_f16(-8.0f * f16_to_float(d));
      if (!finite16(d) || !finite16(minimum)) return not_finite(from, "a scale");
      std::byte* to = out + q4_block_at(b);
      store16(to + kQ4ScaleAt + r * 2, d);
      store16(to + kQ4ScaleAt + 32 + r * 2, minimum);
      // GGUF: low nibbles are elements 0-15, high nibbles 16-31; ours: quads 0-3 and 4-7: the same bytes.
      for (uint32_t j = 0; j < 4; ++j)
        std::memcpy(to + j * 64 + r * 4, p + (has_min ? 4 : 2) + j * 4, 4);
    }
  }
  return {};
}

}  // namespace

const char* pack_type_name(PackType t) {
  switch (t) {
    case PackType::kF32: return "f32";
    case PackType::kF16: return "f16";
    case PackType::kBF16: return "bf16";
    case PackType::kQ8: return "q8";
    case PackType::kQ4: return "q4";
  }
  return "?";
}

size_t group_bytes(PackType type, uint32_t cols) {
  const size_t blocks = cols / kQuantBlock;
  switch (type) {
    case PackType::kF32: return size_t(cols) * kGroupRows * 4;
    case PackType::kF16:
    case PackType::kBF16: return round64(size_t(cols) * kGroupRows * 2);
    case PackType::kQ8: return round64(blocks * (512 + 32));
    case PackType::kQ4: return blocks * (256 + 64);
  }
  return 0;
}

size_t PackedMatrix::size_bytes() const {
  if (rows == 0 || cols == 0) return 0;
  const uint32_t last = leaves() - 1;
  return size_t(groups()) * (size_t(last) * group_bytes(type, leaf_cols) + group_bytes(type, leaf_width(last)));
}

PackType pack_type_for(WeightType stored, bool exact, uint32_t leaf_cols) {
  if (exact) return PackType::kF32;
  switch (stored) {
    case WeightType::kF32: return PackType::kF32;
    case WeightType::kF16: return PackType::kF16;
    case WeightType::kBF16: return leaf_cols % 2 ? PackType::kF32 : PackType::kBF16;
    case WeightType::kQ8_0: return leaf_cols % kQuantBlock ? PackType::kF32 : PackType::kQ8;
    case WeightType::kQ4_0:
    case WeightType::kQ4_1: return leaf_cols % kQuantBlock ? PackType::kF32 : PackType::kQ4;
  }
  return PackType::kF32;
}

Status pack_groups(const PackSource& source, const PackedMatrix& shape, uint32_t leaf, uint32_t group_begin,
                   uint32_t group_end, std::byte* out) {
  const uint32_t begin = leaf * shape.leaf_cols, cols = shape.leaf_width(leaf);
  PackedMatrix at = shape;
  at.data = out;
  for (uint32_t g = group_begin; g < group_end; ++g) {
    std::byte* to = const_cast<std::byte*>(at.group(leaf, g));
    std::memset(to, 0, group_bytes(shape.type, cols));
    switch (shape.type) {
      case PackType::kQ8: BP_TRY(pack_q8_group(source, shape, begin, cols, g, to)); break;
      case PackType::kQ4: BP_TRY(pack_q4_group(source, shape, begin, cols, g, to)); break;
      default: BP_TRY(pack_float_group(source, shape, begin, cols, g, to)); break;
    }
  }
  return {};
}

void unpack_row(const PackedMatrix& m, uint32_t row, std::span<float> out) {
  BP_CHECK(m.leaf_cols == m.cols && row < m.rows && out.size() == m.cols);
  const std::byte* g = m.group(0, row / kGroupRows);
  const uint32_t r = row % kGroupRows, blocks = m.cols / kQuantBlock;
  for (uint32_t c = 0; c < m.cols; ++c) {
    const uint32_t b = c / kQuantBlock, k = c % kQuantBlock;
    const size_t i = size_t(c) * kGroupRows + r;
    if (m.type == PackType::kF32) {
      std::memcpy(&out[c], g + i * 4, 4);
    } else if (m.type == PackType::kF16) {
      out[c] = f16_to_float(load16(g + i * 2));
    } else if (m.type == PackType::kBF16) {
      out[c] = bf16_to_float(load16(g + bf16_at(c, r) * 2));
    } else if (m.type == PackType::kQ8) {
      const int q = static_cast<int>(g[q8_block_at(b) + k / 4 * 64 + r * 4 + k % 4]) - 128;
      out[c] = f16_to_float(load16(g + q8_scale_at(b, blocks) + r * 2)) * float(q);
    } else {
      const int byte = static_cast<int>(g[q4_block_at(b) + k / 4 % 4 * 64 + r * 4 + k % 4]);
      const int q = k < 16 ? byte & 15 : byte >> 4;
      const std::byte* s = g + q4_block_at(b) + kQ4ScaleAt + r * 2;
      out[c] = f16_to_float(load16(s)) * float(q) + f16_to_float(load16(s + 32));
    }
  }
}

}  // namespace bp::rt
