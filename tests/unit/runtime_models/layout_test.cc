// The same tokens whatever the layout, the batch and the chunks (default mode, real model).
#include <catch2/catch.hpp>

#include <ctime>

#include "tests/support/model_harness.h"

namespace bp::test {
namespace {

constexpr uint32_t kNew = 12;

/// Eight prompts of different lengths.
std::vector<TestSequence> prompts(uint32_t count = 8) {
  std::vector<TestSequence> out;
  for (uint32_t i = 0; i < count; ++i) {
    TestSequence s{i + 1, {}, 0, i * 8};
    for (uint32_t t = 0; t < 5 + 9 * i; ++t) s.tokens.push_back((t * 977 + i * 131 + 504) % 49152);
    out.push_back(std::move(s));
  }
  return out;
}

std::vector<std::vector<uint32_t>> tokens_of(std::vector<TestSequence> sequences) {
  std::vector<std::vector<uint32_t>> out;
  for (auto& s : sequences) out.push_back(std::move(s.tokens));
  return out;
}

const rt::WeightSource& source() {
  static const auto opened = rt::open_weights(test_model_path());
  REQUIRE(opened.ok());
  return **opened;
}

std::vector<std::vector<uint32_t>> run(const HarnessOptions& options, uint32_t chunk,
                                       const v1::Sampling& sampling = {}) {
  auto h = ModelHarness::open(source(), options);
  REQUIRE(h.ok());
  auto sequences = prompts();
  const Status done = generate(**h, sequences, kNew, chunk, sampling);
  INFO((done.ok() ? std::string() : done.error().to_string()));
  REQUIRE(done.ok());
  return tokens_of(std::move(sequences));
}

v1::Sampling random_sampling() {
  v1::Sampling s;
  s.set_temperature(0.9f);
  s.set_top_p(0.95f);
  s.set_top_k(50);
  s.set_seed(7);
  return s;
}

}  // namespace

TEST_CASE("tokens do not depend on batch or chunks") {
  INFO(kModelMissing);
  REQUIRE_FALSE(test_model_path().empty());
  for (const v1::Sampling& sampling : {v1::Sampling(), random_sampling()}) {
    const auto together = run({}, 1000, sampling);
    CHECK(run({}, 7, sampling) == together);
    auto h = ModelHarness::open(source(), {});
    REQUIRE(h.ok());
    for (size_t i = 0; i < together.size(); ++i) {
      std::vector<TestSequence> alone{prompts()[i]};
      REQUIRE(generate(**h, alone, kNew, 16, sampling).ok());
      CHECK(alone[0].tokens == together[i]);
    }
  }
}

TEST_CASE("tokens do not depend on tensor and pipeline layout") {
  INFO(kModelMissing);
  REQUIRE_FALSE(test_model_path().empty());
  const auto expected = run({}, 16);
  struct Layout { uint32_t tp, pp; };
  for (const Layout l : {Layout{2, 1}, {3, 1}, {1, 2}, {2, 2}, {1, 4}}) {
    INFO("TP " << l.tp << " x PP " << l.pp);
    HarnessOptions o;
    o.tp = l.tp;
    o.pp = l.pp;
    CHECK(run(o, 16) == expected);
  }
  HarnessOptions threads;
  threads.threads = 3;
  threads.kv_block_tokens = 32;
  CHECK(run(threads, 16) == expected);
}

TEST_CASE("speed of this machine", "[.speed]") {
  for (const bool exact : {false, true}) {
    HarnessOptions o;
    o.exact = exact;
    auto h = ModelHarness::open(source(), o);
    REQUIRE(h.ok());
    // Processor time of one thread: what other programs take does not count.
    const auto cpu_s = [] { return double(std::clock()) / CLOCKS_PER_SEC; };
    const double t0 = cpu_s();
    std::vector<TestSequence> s{{1, std::vector<uint32_t>(512, 1000), 0, 0}};
    REQUIRE(generate(**h, s, 1, 512).ok());
    const double t1 = cpu_s();
    REQUIRE(generate(**h, s, 50, 512).ok());
    const double t2 = cpu_s();
    WARN((*h)->runners[0]->numerics_class() << " per core: prompt " << 512 / (t1 - t0) << " tok/s, decode "
                                            << 50 / (t2 - t1) << " tok/s");
  }
}

}  // namespace bp::test
