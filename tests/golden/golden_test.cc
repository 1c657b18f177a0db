// Exact mode against transformers in FP32 over the same GGUF file (make_goldens.py).
#include <boost/json.hpp>
#include <catch2/catch.hpp>

#include "engine/base/files.h"
#include "tests/support/model_harness.h"

namespace bp::test {
namespace {

constexpr double kCloseCall = 1e-3;   // behind a smaller gap of the two best logits, rounding decides

struct Golden {
  std::vector<uint32_t> prompt, tokens;
  std::vector<double> gaps;
};

std::vector<Golden> read_goldens() {
  auto text = read_file(BP_SOURCE_DIR "/tests/golden/goldens.json", 4 << 20);
  REQUIRE(text.ok());
  std::vector<Golden> out;
  const boost::json::value all = boost::json::parse(*text);
  for (const auto& v : all.as_array()) {
    Golden g;
    for (const auto& t : v.at("prompt").as_array()) g.prompt.push_back(t.to_number<uint32_t>());
    for (const auto& t : v.at("tokens").as_array()) g.tokens.push_back(t.to_number<uint32_t>());
    for (const auto& t : v.at("gaps").as_array()) g.gaps.push_back(t.to_number<double>());
    out.push_back(std::move(g));
  }
  return out;
}

}  // namespace

TEST_CASE("exact mode gives the tokens of transformers in FP32") {
  INFO(kModelMissing);
  REQUIRE_FALSE(test_model_path().empty());
  auto source = rt::open_weights(test_model_path());
  REQUIRE(source.ok());
  const std::vector<Golden> goldens = read_goldens();
  REQUIRE(goldens.size() == 32);
  HarnessOptions options;
  options.exact = true;
  options.threads = 2;
  options.kv_blocks = 32 * 10;
  auto harness = ModelHarness::open(**source, options);
  REQUIRE(harness.ok());
  std::vector<TestSequence> sequences;
  for (size_t i = 0; i < goldens.size(); ++i)
    sequences.push_back({i + 1, goldens[i].prompt, 0, static_cast<uint32_t>(i) * 10});
  const Status done = generate(**harness, sequences, 64, 64);
  INFO((done.ok() ? std::string() : done.error().to_string()));
  REQUIRE(done.ok());
  size_t equal = 0, excused = 0;
  for (size_t i = 0; i < goldens.size(); ++i)
    for (size_t t = 0; t < 64; ++t) {
      const uint32_t found = sequences[i].tokens[goldens[i].prompt.size() + t];
      INFO("prompt " << i << " token " << t << " gap " << goldens[i].gaps[t]);
      if (found != goldens[i].tokens[t]) {
        REQUIRE(goldens[i].gaps[t] < kCloseCall);
        excused += 64 - t;
        break;
      }
      ++equal;
    }
  WARN(equal << " tokens equal, " << excused << " behind a close call");
  CHECK(equal + excused == 32 * 64);
}

}  // namespace bp::test
