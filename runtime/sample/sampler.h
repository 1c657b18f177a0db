// Sampler: the next token from a row of logits. The random number of a candidate depends on nothing but
// (seed, choice, position, token id), so a token can be drawn again anywhere with the same result.
#pragma once
#include <cstdint>
#include <span>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"
#include "runtime/ops/ops.h"

namespace bp::rt {

/// Uniform in (0, 1): a counter hashed by the SplitMix64 finaliser (Steele, Lea, Flood 2014).
double uniform_at(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token);

/// Draws the token at `position` from logits [vocab]. temperature 0: the largest, lowest id first.
/// Otherwise top_k (0: all), then top_p (0 or 1: all), then min_p, then the largest of logit / temperature +
/// Gumbel noise (Gumbel-max); all of it on logits that were adjusted first (adjust.h). Log probabilities are
/// of the logits as they came. kInvalidArgument names the field;
/// kCorruptData when a logit is not finite. Any thread.
Result<v1::SampledToken> sample_token(const Ops& ops, std::span<const float> logits, const v1::Sampling& sampling,
                                      uint32_t position);

}  // namespace bp::rt
