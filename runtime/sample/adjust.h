// What a request wants changed of the logits before a token is drawn: penalties and biases. Pure.
#pragma once
#include <span>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"

namespace bp::rt {

bool wants_adjustment(const v1::Sampling& sampling);

/// logits [vocab] with, in this order: repetition_penalty (Keskar and others 2019, CTRL) on tokens of
/// `seen` and `seen_prompt`, frequency_penalty and presence_penalty on tokens of `seen`, logit_bias.
/// kInvalidArgument names the field: a token beyond the vocabulary, a number that is not finite.
Result<std::vector<float>> adjusted_logits(std::span<const float> logits, const v1::Sampling& sampling);

}  // namespace bp::rt
