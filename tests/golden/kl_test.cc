// Default mode against FP32 over ~4,000 tokens of text: mean KL divergence over the whole vocabulary. FP32 is
// our exact mode, which the same test compares with transformers' log probabilities (kl_text.bin).
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>

#include "engine/base/files.h"
#include "tests/support/model_harness.h"

namespace bp::test {
namespace {

constexpr double kMeanKlMax = 0.0033;
constexpr uint32_t kWindow = 512;      // as in make_goldens.py
constexpr uint32_t kChunk = 64;        // rows of logits at a time

struct Reference {
  uint32_t top = 0;
  std::vector<uint32_t> tokens;
  std::vector<uint16_t> ids;           // [tokens, top]
  std::vector<float> logprobs;
};

Reference read_reference() {
  auto bytes = read_file(BP_SOURCE_DIR "/tests/golden/kl_text.bin", 4 << 20);
  REQUIRE(bytes.ok());
  uint32_t head[2];
  std::memcpy(head, bytes->data(), 8);
  Reference r;
  r.top = head[1];
  REQUIRE(bytes->size() == 8 + head[0] * (2 + r.top * 6));
  const char* p = bytes->data() + 8;
  r.ids.resize(size_t(head[0]) * r.top);
  r.logprobs.resize(r.ids.size());
  for (uint32_t i = 0; i < head[0]; ++i) {
    uint16_t token;
    std::memcpy(&token, p, 2);
    r.tokens.push_back(token);
    std::memcpy(&r.ids[size_t(i) * r.top], p + 2, r.top * 2);
    std::memcpy(&r.logprobs[size_t(i) * r.top], p + 2 + r.top * 2, r.top * 4);
    p += 2 + r.top * 6;
  }
  return r;
}

/// Logits of every token [begin, end) of a window: as one-token sequences that share their blocks.
std::vector<float> logits_of(ModelHarness& h, const uint32_t* window, uint32_t begin, uint32_t end) {
  v1::Step step;
  step.set_number(1);
  for (uint32_t t = begin; t < end; ++t) {
    TestSequence s{t + 1, std::vector<uint32_t>(window, window + t + 1), t, 0};
    add_tokens(step, s, 1, h.options.kv_block_tokens);
  }
  const auto done = h.step(step);
  INFO((done.ok() ? std::string() : done.error().to_string()));
  REQUIRE(done.ok());
  return h.logits();
}

std::vector<double> log_softmax(const float* row, size_t n) {
  double top = row[0], sum = 0;
  for (size_t i = 1; i < n; ++i) top = std::max<double>(top, row[i]);
  for (size_t i = 0; i < n; ++i) sum += std::exp(row[i] - top);
  std::vector<double> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = row[i] - top - std::log(sum);
  return out;
}

}  // namespace

TEST_CASE("the default mode stays near FP32") {
  INFO(kModelMissing);
  REQUIRE_FALSE(test_model_path().empty());
  auto source = rt::open_weights(test_model_path());
  REQUIRE(source.ok());
  const Reference reference = read_reference();
  HarnessOptions options;
  options.threads = 2;
  options.kv_blocks = kWindow / 16;
  auto fast = ModelHarness::open(**source, options);
  options.exact = true;
  auto exact = ModelHarness::open(**source, options);
  REQUIRE((fast.ok() && exact.ok()));
  const size_t vocab = (*source)->config().shape.vocab;
  double kl = 0, worst_top = 0;
  size_t rows = 0, same_best = 0;
  for (uint32_t start = 0; start < reference.tokens.size(); start += kWindow) {
    const auto size = std::min<uint32_t>(kWindow, static_cast<uint32_t>(reference.tokens.size()) - start);
    for (uint32_t begin = 0; begin < size; begin += kChunk) {
      const uint32_t end = std::min(size, begin + kChunk);
      const auto a = logits_of(**exact, &reference.tokens[start], begin, end);
      const auto b = logits_of(**fast, &reference.tokens[start], begin, end);
      for (uint32_t t = begin; t < end; ++t, ++rows) {
        const auto p = log_softmax(&a[(t - begin) * vocab], vocab), q = log_softmax(&b[(t - begin) * vocab], vocab);
        double row_kl = 0;
        for (size_t i = 0; i < vocab; ++i) row_kl += std::exp(p[i]) * (p[i] - q[i]);
        kl += row_kl;
        const auto best = [](const auto& v) { return std::max_element(v.begin(), v.end()) - v.begin(); };
        same_best += best(p) == best(q);
        for (uint32_t k = 0; k < reference.top; ++k) {
          const size_t at = size_t(start + t) * reference.top + k;
          worst_top = std::max(worst_top, std::fabs(p[reference.ids[at]] - reference.logprobs[at]));
        }
      }
    }
  }
  WARN(rows << " tokens: mean KL " << kl / double(rows) << ", same best token " << double(same_best) / double(rows)
            << "; exact mode within " << worst_top << " of transformers' log probabilities");
  CHECK(worst_top < 2e-3);
  CHECK(kl / double(rows) <= kMeanKlMax);
}

}  // namespace bp::test
