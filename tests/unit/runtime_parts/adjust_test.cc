// Penalties, biases and min_p: what they do to the choice, and that log probabilities do not know of them.
#include <catch2/catch.hpp>

#include <set>

#include "runtime/sample/adjust.h"
#include "runtime/sample/sampler.h"

namespace bp::rt {

TEST_CASE("penalties and biases change logits as their formulas say", "[sample]") {
  const std::vector<float> logits{1, -1, 2, 0.5f, 3};
  v1::Sampling s;
  CHECK_FALSE(wants_adjustment(s));
  s.set_repetition_penalty(1);
  CHECK_FALSE(wants_adjustment(s));
  s.set_repetition_penalty(2);
  s.set_presence_penalty(0.25f);
  s.set_frequency_penalty(0.5f);
  for (const uint32_t t : {0, 0, 1}) s.add_seen(t);
  for (const uint32_t t : {1, 2}) s.add_seen_prompt(t);
  s.add_logit_bias()->set_token(3);
  s.mutable_logit_bias(0)->set_bias(-4);
  REQUIRE(wants_adjustment(s));
  const auto out = adjusted_logits(logits, s);
  REQUIRE(out.ok());
  CHECK(*out == std::vector<float>{0.5f - 0.25f - 1.0f, -2 - 0.25f - 0.5f, 1, -3.5f, 3});
  s.add_seen(5);
  CHECK(adjusted_logits(logits, s).error().message.find("seen") != std::string::npos);
  s.mutable_seen()->RemoveLast();
  s.mutable_logit_bias(0)->set_token(9);
  CHECK(adjusted_logits(logits, s).error().message.find("logit_bias") != std::string::npos);
}

TEST_CASE("the sampler draws from adjusted logits and reports the given ones", "[sample]") {
  const std::vector<float> logits{1, 4, 3, 0};
  v1::Sampling s;
  s.set_want_logprob(true);
  CHECK(sample_token(best_ops(), logits, s, 0)->token() == 1);
  s.set_presence_penalty(2);
  s.add_seen(1);
  const auto t = sample_token(best_ops(), logits, s, 0);
  REQUIRE(t.ok());
  CHECK(t->token() == 2);
  v1::Sampling plain;
  plain.set_logprobs(2);
  CHECK(t->logprob() == sample_token(best_ops(), logits, plain, 0)->top(1).logprob());
  s.add_logit_bias()->set_token(3);
  s.mutable_logit_bias(0)->set_bias(100);
  s.set_temperature(1);
  for (uint32_t p = 0; p < 50; ++p) CHECK(sample_token(best_ops(), logits, s, p)->token() == 3);
}

TEST_CASE("min_p leaves out what is less likely than that share of the best", "[sample]") {
  const std::vector<float> logits{0, 1, 2, 3};   // of the best: 5 %, 14 %, 37 %, all
  v1::Sampling s;
  s.set_temperature(1);
  for (const auto& [min_p, kept] : std::vector<std::pair<float, size_t>>{{0, 4}, {0.1f, 3}, {0.3f, 2}, {1, 1}}) {
    s.set_min_p(min_p);
    std::set<uint32_t> drawn;
    for (uint32_t p = 0; p < 500; ++p) drawn.insert(sample_token(best_ops(), logits, s, p)->token());
    CHECK(drawn.size() == kept);
  }
  s.set_min_p(1.5f);
  CHECK_FALSE(sample_token(best_ops(), logits, s, 0).ok());
}

}  // namespace bp::rt
