// One suite for every implementation of Ops: the same bits as the reference, for every shape and type.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>

#include "runtime/ops/ops.h"
#include "runtime/tensor/half.h"

namespace bp::rt {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435769u + 1) {}
  uint32_t next() { state_ = state_ * 6364136223846793005ull + 1442695040888963407ull; return uint32_t(state_ >> 33); }
  /// Uniform in [-1, 1).
  float real() { return static_cast<float>(next()) / 1073741824.0f - 1.0f; }
  std::vector<float> reals(size_t n, float scale = 1) {
    std::vector<float> v(n);
    for (float& x : v) x = real() * scale;
    return v;
  }

 private:
  uint64_t state_;
};

/// A random matrix packed as the loader packs it.
struct Packed {
  PackedMatrix m;
  std::vector<std::byte> file, memory;
};

std::vector<std::byte> random_tensor(plan::WeightType type, size_t elements, Random& random) {
  std::vector<std::byte> out(elements / plan::block_elements(type) * plan::block_bytes(type));
  for (auto& b : out) b = static_cast<std::byte>(random.next());
  const size_t step = plan::block_elements(type) == 1 ? plan::block_bytes(type) : plan::block_bytes(type);
  for (size_t at = 0; at < out.size(); at += step) {
    const float v = random.real() * 0.1f;
    const uint16_t half = type == plan::WeightType::kBF16 ? uint16_t(float_bits(v) >> 16) : float_to_f16(v);
    const uint16_t minimum = float_to_f16(random.real());
    if (type == plan::WeightType::kF32) std::memcpy(&out[at], &v, 4);
    else std::memcpy(&out[at], &half, 2);
    if (type == plan::WeightType::kQ4_1) std::memcpy(&out[at + 2], &minimum, 2);
  }
  return out;
}

Packed random_matrix(plan::WeightType type, uint32_t rows, uint32_t cols, uint32_t leaf, uint64_t seed) {
  Random random(seed);
  Packed p;
  p.file = random_tensor(type, size_t(rows) * cols, random);
  p.m.type = pack_type_for(type, false, leaf);
  p.m.rows = rows;
  p.m.cols = cols;
  p.m.leaf_cols = leaf;
  p.memory.resize(p.m.size_bytes());
  const PackSource source{type, cols, 0, p.file.data(), [](uint32_t r) { return r; }};
  for (uint32_t l = 0; l < p.m.leaves(); ++l)
    REQUIRE(pack_groups(source, p.m, l, 0, p.m.groups(), p.memory.data()).ok());
  p.m.data = p.memory.data();
  return p;
}

struct Acts {
  Activations a;
  std::vector<float> f, d, s;
  std::vector<int8_t> q, lo;
  std::vector<int32_t> zero;
  std::vector<uint16_t> h;
};

Acts make_acts(uint32_t tokens, uint32_t cols, std::vector<float> values, bool wide = false) {
  Acts x;
  const size_t blocks = size_t(tokens) * cols / 32;
  x.f = std::move(values);
  x.d.resize(blocks);
  x.s.resize(blocks);
  x.zero.resize(blocks);
  x.h.resize(x.f.size());
  x.q.resize(x.f.size());
  x.lo.resize(wide ? x.f.size() : 0);
  x.a = {tokens, cols, cols, x.f.data(), x.q.data(), wide ? x.lo.data() : nullptr,
         x.d.data(), x.s.data(), x.zero.data(), x.h.data()};
  return x;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

const plan::WeightType kTypes[] = {plan::WeightType::kF32, plan::WeightType::kF16, plan::WeightType::kBF16,
                                   plan::WeightType::kQ8_0, plan::WeightType::kQ4_0, plan::WeightType::kQ4_1};

}  // namespace

TEST_CASE("this machine's best kernels are used") {
  const auto usable = usable_ops();
  CHECK(std::string(usable.back()->name()) == "portable");
  if (!std::getenv("BP_OPS")) CHECK(&best_ops() == usable.front());
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw"))
    CHECK(std::string(usable.front()->name()) ==
          (__builtin_cpu_supports("avx512bf16") ? "avx512-vnni-bf16" : "avx512-vnni"));
#endif
}

TEST_CASE("packing keeps every weight") {
  for (const auto type : kTypes) {
    INFO(plan::weight_type_name(type));
    const Packed p = random_matrix(type, 37, 96, 96, 5);
    // The same matrix in exact form: dequantised at load.
    PackedMatrix exact = p.m;
    exact.type = PackType::kF32;
    std::vector<std::byte> memory(exact.size_bytes());
    const PackSource source{type, 96, 0, p.file.data(), [](uint32_t r) { return r; }};
    REQUIRE(pack_groups(source, exact, 0, 0, exact.groups(), memory.data()).ok());
    exact.data = memory.data();
    std::vector<float> a(96), b(96);
    for (uint32_t row = 0; row < 37; ++row) {
      unpack_row(p.m, row, a);
      unpack_row(exact, row, b);
      REQUIRE(a == b);
    }
  }
}

TEST_CASE("columns and rows of a cut are those of the whole") {
  for (const auto type : kTypes) {
    INFO(plan::weight_type_name(type));
    const Packed whole = random_matrix(type, 32, 384, 128, 9);
    PackedMatrix cut = whole.m;
    cut.cols = 256;
    std::vector<std::byte> memory(cut.size_bytes());
    const PackSource source{type, 384, 128, whole.file.data(), [](uint32_t r) { return r; }};
    for (uint32_t l = 0; l < 2; ++l) REQUIRE(pack_groups(source, cut, l, 0, 2, memory.data()).ok());
    // Leaves 1 and 2 of the whole are the bytes of the cut.
    const size_t leaf_bytes = memory.size() / 2;
    CHECK(std::memcmp(whole.memory.data() + leaf_bytes, memory.data(), memory.size()) == 0);
  }
}

TEST_CASE("not finite weights are refused at load") {
  for (const auto type : kTypes) {
    Packed p = random_matrix(type, 16, 64, 64, 3);
    const uint32_t inf = 0x7f800000;
    const uint16_t half = type == plan::WeightType::kBF16 ? 0x7f80 : 0x7c00;
    if (type == plan::WeightType::kF32) std::memcpy(p.file.data(), &inf, 4);
    else std::memcpy(p.file.data(), &half, 2);
    const Status s = pack_groups({type, 64, 0, p.file.data(), [](uint32_t r) { return r; }}, p.m, 0, 0, 1,
                                 p.memory.data());
    REQUIRE_FALSE(s.ok());
    CHECK(s.error().code == ErrorCode::kCorruptData);
  }
}

TEST_CASE("quantised activations have the bits of the reference") {
  auto values = Random(1).reals(7 * 96, 3.0f);
  std::fill(values.begin() + 32, values.begin() + 64, 0.0f);
  values[100] = 1e-35f;
  values[70] = 1e30f;
  values[130] = std::numeric_limits<float>::infinity();
  values[200] = std::nanf("");
  const bool wide = GENERATE(false, true);
  Acts expected = make_acts(7, 96, values, wide);
  reference_ops().quantise(expected.a, 0, 7);
  CHECK(std::isnan(expected.d[5]));   // token 1, block 1, in a panel of 4
  for (const Ops* ops : usable_ops()) {
    INFO(ops->name());
    Acts x = make_acts(7, 96, values, wide);
    ops->quantise(x.a, 0, 7);
    CHECK(x.q == expected.q);
    CHECK(x.lo == expected.lo);
    CHECK(x.zero == expected.zero);
    CHECK(x.h == expected.h);
    for (size_t i = 0; i < x.d.size(); ++i)
      CHECK((x.d[i] == expected.d[i] || (std::isnan(x.d[i]) && std::isnan(expected.d[i]))));
  }
}

TEST_CASE("matrix products have the bits of the reference and do not depend on the batch") {
  const bool wide = GENERATE(false, true);
  for (const auto type : kTypes)
    for (const uint32_t rows : {16u, 37u}) {
      const uint32_t cols = 160, tokens = 15;
      const Packed w = random_matrix(type, rows, cols, cols, 11);
      Acts x = make_acts(tokens, cols, Random(2).reals(tokens * cols, 2.0f), wide);
      reference_ops().quantise(x.a, 0, tokens);
      std::vector<float> expected(tokens * rows);
      reference_ops().matmul(w.m, x.a, expected.data(), rows, 0, w.m.groups());
      for (const Ops* ops : usable_ops()) {
        INFO(ops->name() << " " << plan::weight_type_name(type) << " rows " << rows);
        std::vector<float> out(tokens * rows);
        ops->matmul(w.m, x.a, out.data(), rows, 0, w.m.groups());
        CHECK(same_bits(out, expected));
        for (uint32_t begin = 0, n = 1; begin + n <= tokens; begin += n++) {   // 1, 2, 3, 4 of them
          Acts some = make_acts(n, cols, {x.f.begin() + begin * cols, x.f.begin() + (begin + n) * cols}, wide);
          ops->quantise(some.a, 0, n);
          std::vector<float> part(n * rows);
          ops->matmul(w.m, some.a, part.data(), rows, 0, w.m.groups());
          CHECK(std::memcmp(part.data(), &expected[begin * rows], part.size() * 4) == 0);
        }
      }
    }
}

TEST_CASE("quantised products are near the exact ones") {
  const uint32_t cols = 512, rows = 32;
  for (const auto type : {plan::WeightType::kQ8_0, plan::WeightType::kQ4_1}) {
    const Packed w = random_matrix(type, rows, cols, cols, 21);
    Acts x = make_acts(1, cols, Random(4).reals(cols));
    reference_ops().quantise(x.a, 0, 1);
    std::vector<float> out(rows), row(cols);
    best_ops().matmul(w.m, x.a, out.data(), rows, 0, 2);
    for (uint32_t r = 0; r < rows; ++r) {
      unpack_row(w.m, r, row);
      double exact = 0, size = 0;
      for (uint32_t c = 0; c < cols; ++c) {
        exact += double(row[c]) * x.f[c];
        size += double(row[c]) * row[c];
      }
      CHECK(std::fabs(out[r] - exact) < 0.01 * std::sqrt(size));
    }
  }
}

TEST_CASE("leaf sums are integers that add up the same for every cut") {
  const bool wide = GENERATE(false, true);
  for (const auto type : kTypes) {
    const uint32_t rows = 40, cols = 320, tokens = 9;   // leaves of 128, 128, 64
    const Packed w = random_matrix(type, rows, cols, 128, 31);
    Acts x = make_acts(tokens, cols, Random(6).reals(tokens * cols), wide);
    reference_ops().quantise(x.a, 0, tokens);
    std::vector<int64_t> expected(tokens * rows);
    CHECK(reference_ops().matmul_leaves(w.m, x.a, expected.data(), rows, 0, w.m.groups()) == 0);
    for (const Ops* ops : usable_ops()) {
      INFO(ops->name() << " " << plan::weight_type_name(type));
      std::vector<int64_t> out(tokens * rows);
      CHECK(ops->matmul_leaves(w.m, x.a, out.data(), rows, 0, w.m.groups()) == 0);
      CHECK(out == expected);
    }
  }
}

TEST_CASE("sums that are no numbers are counted") {
  const Packed w = random_matrix(plan::WeightType::kF32, 16, 128, 128, 41);
  std::vector<float> values(128 * 2, 0.5f);
  values[3] = std::nanf("");
  values[128 + 5] = 1e30f;
  Acts x = make_acts(2, 128, values);
  for (const Ops* ops : usable_ops()) {
    std::vector<int64_t> out(32);
    CHECK(ops->matmul_leaves(w.m, x.a, out.data(), 16, 0, 1) == 32);
  }
}

TEST_CASE("vector ops have the bits of the reference") {
  for (const uint32_t n : {16u, 576u, 100u, 49152u}) {
    Random random(n);
    const auto x = random.reals(n, 8.0f), w = random.reals(n);
    std::vector<float> norm(n), silu = x;
    reference_ops().rms_norm(x.data(), w.data(), 1e-5f, n, norm.data());
    reference_ops().silu_mul(silu.data(), w.data(), n);
    float top = 0, sum = 0;
    reference_ops().max_and_exp_sum(x.data(), n, &top, &sum);
    auto twice = x;                                    // the largest value in two places, not at the start
    twice[n / 2] = twice[n - 1] = 9.0f;
    std::vector<int64_t> fixed(n);
    for (auto& f : fixed) f = int64_t(random.next()) * int64_t(random.next()) - (int64_t{1} << 60);
    std::vector<float> added = x;
    reference_ops().add_fixed(added.data(), fixed.data(), n);
    for (const Ops* ops : usable_ops()) {
      INFO(ops->name() << " n " << n);
      std::vector<float> out(n), s = x, a = x;
      CHECK(ops->largest_index(twice.data(), n) == n / 2);
      ops->rms_norm(x.data(), w.data(), 1e-5f, n, out.data());
      CHECK(same_bits(out, norm));
      ops->silu_mul(s.data(), w.data(), n);
      CHECK(same_bits(s, silu));
      ops->add_fixed(a.data(), fixed.data(), n);
      CHECK(same_bits(a, added));
      float t2 = 0, s2 = 0;
      ops->max_and_exp_sum(x.data(), n, &t2, &s2);
      CHECK((t2 == top && s2 == sum));
    }
  }
  for (float v = -80; v < 80; v += 0.37f) {
    float s = v;
    const float one = 1;
    reference_ops().silu_mul(&s, &one, 1);
    CHECK(s == Approx(v / (1 + std::exp(-double(v)))).epsilon(1e-6));
  }
  for (const Ops* ops : usable_ops()) {
    std::vector<float> bad(64, 1.0f);
    bad[40] = std::nanf("");
    float top = 0, sum = 0;
    ops->max_and_exp_sum(bad.data(), 64, &top, &sum);
    CHECK((std::isnan(top) && std::isnan(sum)));
    const float one = 1;
    ops->silu_mul(&bad[40], &one, 1);
    CHECK(std::isnan(bad[40]));
  }
}

TEST_CASE("rotation has the bits of the reference") {
  Random random(3);
  const auto x = random.reals(3 * 64), cos = random.reals(32), sin = random.reals(32);
  auto expected = x;
  reference_ops().rope(expected.data(), 3, 64, cos.data(), sin.data());
  for (const Ops* ops : usable_ops()) {
    auto out = x;
    ops->rope(out.data(), 3, 64, cos.data(), sin.data());
    CHECK(same_bits(out, expected));
  }
}

TEST_CASE("attention has the bits of the reference for every number of rows") {
  for (const bool f16 : {false, true})
    for (const uint32_t dim : {16u, 64u, 80u}) {
      const uint32_t block_tokens = 32, keys = 75;
      const uint32_t blocks[] = {2, 0, 1};
      const size_t block_bytes = size_t(2) * block_tokens * dim * (f16 ? 2 : 4);
      Random random(dim);
      std::vector<std::byte> stored(3 * block_bytes, std::byte{0xff});   // NaN where nothing is stored
      auto expected_store = stored;
      for (uint32_t k = 0; k < keys; ++k) {
        const auto key = random.reals(dim, 2.0f), value = random.reals(dim);
        const size_t at = blocks[k / block_tokens] * block_bytes;
        reference_ops().store_kv(expected_store.data() + at, k % block_tokens, block_tokens, dim, f16, key.data(),
                                 value.data());
        best_ops().store_kv(stored.data() + at, k % block_tokens, block_tokens, dim, f16, key.data(), value.data());
      }
      CHECK(stored == expected_store);
      const KvView kv{stored.data(), block_bytes, blocks, block_tokens, dim, f16};
      const auto queries = random.reals(8 * dim, 3.0f);
      const uint32_t last[] = {74, 0, 31, 47, 63, 64, 15, 72};
      const float* q[8];
      std::vector<float> expected(8 * dim), scratch(attend_scratch(8, 74, dim));
      float* to[8];
      for (int r = 0; r < 8; ++r) { q[r] = &queries[r * dim]; to[r] = &expected[r * dim]; }
      reference_ops().attend(kv, 8, q, last, 0.125f, to, scratch.data());
      for (const Ops* ops : usable_ops())
        for (uint32_t rows = 1; rows <= 8; ++rows) {
          INFO(ops->name() << " dim " << dim << " rows " << rows << " f16 " << f16);
          std::vector<float> out(8 * dim);
          for (int r = 0; r < 8; ++r) to[r] = &out[r * dim];
          ops->attend(kv, rows, q, last, 0.125f, to, scratch.data());
          CHECK(std::memcmp(out.data(), expected.data(), rows * dim * 4) == 0);
        }
    }
}

TEST_CASE("16-bit floats convert as IEEE 754 says") {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float v = f16_to_float(static_cast<uint16_t>(h));
    if (!std::isnan(v)) REQUIRE(float_to_f16(v) == h);
  }
  CHECK(float_to_f16(65519.9f) == 0x7bff);
  CHECK(float_to_f16(65520.0f) == 0x7c00);
  CHECK(float_to_f16(1.0f + 1.0f / 2048) == 0x3c00);          // a tie goes to even
  CHECK(float_to_f16(1.0f + 3.0f / 2048) == 0x3c02);
  CHECK(float_to_f16(2.9802322387695312e-8f) == 0);           // half the smallest subnormal, to even
}

}  // namespace bp::rt
