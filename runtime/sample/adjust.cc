#include "runtime/sample/adjust.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

namespace bp::rt {
namespace {

Error bad(const char* field, double found, const std::string& expected) {
  return {ErrorCode::kInvalidArgument, fmt::format("sampling.{}: found {}, expected {}", field, found, expected), {}};
}

Status check(const v1::Sampling& s, size_t vocab) {
  const std::string below = fmt::format("less than {}", vocab);
  for (const uint32_t t : s.seen())
    if (t >= vocab) return bad("seen", t, below);
  for (const uint32_t t : s.seen_prompt())
    if (t >= vocab) return bad("seen_prompt", t, below);
  for (const auto& b : s.logit_bias()) {
    if (b.token() >= vocab) return bad("logit_bias", b.token(), below);
    if (!std::isfinite(b.bias())) return bad("logit_bias", b.bias(), "a finite number");
  }
  if (!std::isfinite(s.presence_penalty())) return bad("presence_penalty", s.presence_penalty(), "a finite number");
  if (!std::isfinite(s.frequency_penalty())) return bad("frequency_penalty", s.frequency_penalty(), "a finite number");
  if (!(s.repetition_penalty() >= 0 && std::isfinite(s.repetition_penalty())))
    return bad("repetition_penalty", s.repetition_penalty(), "a finite number above 0");
  return {};
}

}  // namespace

bool wants_adjustment(const v1::Sampling& s) {
  return s.presence_penalty() != 0 || s.frequency_penalty() != 0 || s.logit_bias_size() > 0 ||
         (s.repetition_penalty() != 0 && s.repetition_penalty() != 1);
}

Result<std::vector<float>> adjusted_logits(std::span<const float> logits, const v1::Sampling& s) {
  BP_TRY(check(s, logits.size()));
  std::vector<float> out(logits.begin(), logits.end());
  std::map<uint32_t, uint32_t> counts;   // in `seen`; 0: in the prompt only
  for (const uint32_t t : s.seen_prompt()) counts.try_emplace(t, 0);
  for (const uint32_t t : s.seen()) ++counts[t];
  for (const auto& [token, count] : counts) {
    float& logit = out[token];
    if (s.repetition_penalty() != 0)
      logit = logit > 0 ? logit / s.repetition_penalty() : logit * s.repetition_penalty();
    if (count > 0) logit -= s.presence_penalty() + s.frequency_penalty() * static_cast<float>(count);
  }
  for (const auto& b : s.logit_bias()) out[b.token()] += b.bias();
  return out;
}

}  // namespace bp::rt
