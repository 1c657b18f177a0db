#include "runtime/sample/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "runtime/sample/adjust.h"

namespace bp::rt {
namespace {

constexpr uint32_t kLogprobsMax = 100;

uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// The part of the counter that is the same for all tokens of a row.
uint64_t row_key(uint64_t seed, uint32_t choice, uint32_t position) {
  return mix(mix(seed) ^ (uint64_t(choice) << 32 | position));
}

uint64_t hash(uint64_t key, uint32_t token) { return mix(key ^ (uint64_t(token) * 0xd1342543de82ef95ull)); }
double uniform_from(uint64_t hash) { return (static_cast<double>(hash >> 11) + 0.5) * 0x1p-53; }

/// The `n` first ids by (logit descending, id ascending), in that order.
void sort_first(std::span<const float> logits, std::vector<uint32_t>& ids, size_t n) {
  const auto before = [&](uint32_t a, uint32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (n < ids.size()) std::nth_element(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(n), ids.end(), before);
  std::sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(n), before);
}

/// Ids that top_k and then top_p leave over.
std::vector<uint32_t> candidates(std::span<const float> logits, const v1::Sampling& s, float top) {
  std::vector<uint32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0u);
  const size_t k = s.top_k() ? std::min<size_t>(s.top_k(), ids.size()) : ids.size();
  const double t = s.temperature();
  const auto weight = [&](uint32_t id) { return std::exp((double(logits[id]) - top) / t); };
  if (k < ids.size()) {
    sort_first(logits, ids, k);
    ids.resize(k);
  }
  if (s.top_p() <= 0 || s.top_p() >= 1) return ids;
  double total = 0;                                    // in order of rank or id: fixed either way
  for (const uint32_t id : ids) total += weight(id);
  for (size_t sorted = 256;; sorted *= 4) {
    const size_t n = std::min(sorted, ids.size());
    sort_first(logits, ids, n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      sum += weight(ids[i]);
      if (sum >= double(s.top_p()) * total) {
        ids.resize(i + 1);
        return ids;
      }
    }
    if (n == ids.size()) return ids;
  }
}

/// The id with the largest logit / temperature + Gumbel noise; the lower id on a tie.
class GumbelMax {
 public:
  GumbelMax(std::span<const float> logits, float top, const v1::Sampling& s, uint32_t position)
      : logits_(logits), top_(top), per_temperature_(1.0 / double(s.temperature())),
        key_(row_key(s.seed(), s.choice(), position)),
        least_(s.min_p() > 0 ? std::log(double(s.min_p())) : -std::numeric_limits<double>::infinity()) {}

  void offer(uint32_t id) {
    const double score = (double(logits_[id]) - top_) * per_temperature_;
    if (score < least_) return;
    const uint64_t bits = hash(key_, id);
    // With n leading ones 1 - u is at least 2^-(n + 1), so the noise is at most (n + 1) log(2): most tokens
    // are seen to lose by a comparison.
    if (best_ - score > 0.6932 * (std::countl_one(bits) + 1)) return;
    const double u = uniform_from(bits);
    // -log(u) >= 1 - u: most tokens are seen to lose without a logarithm.
    if (score < best_ && (1.0 - u) > 1.001 * std::exp(score - best_)) return;
    const double noisy = score - std::log(-std::log(u));
    if (noisy > best_ || (noisy == best_ && id < id_)) {
      best_ = noisy;
      id_ = id;
    }
  }
  uint32_t id() const { return id_; }

 private:
  std::span<const float> logits_;
  double top_;
  double per_temperature_;
  uint64_t key_;
  double least_;   // of logit / temperature below the top: min_p
  double best_ = -std::numeric_limits<double>::infinity();
  uint32_t id_ = 0;
};

uint32_t draw(std::span<const float> logits, const v1::Sampling& s, uint32_t position, float top) {
  GumbelMax best(logits, top, s, position);
  if (s.top_k() == 0 && (s.top_p() <= 0 || s.top_p() >= 1))
    for (uint32_t id = 0; id < logits.size(); ++id) best.offer(id);
  else
    for (const uint32_t id : candidates(logits, s, top)) best.offer(id);
  return best.id();
}

Status check(const v1::Sampling& s) {
  const auto bad = [](const char* field, double found, const char* expected) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("sampling.{}: found {}, expected {}", field, found, expected),
                 {}};
  };
  if (!(s.temperature() >= 0 && s.temperature() <= 100)) return bad("temperature", s.temperature(), "0 to 100");
  if (!(s.top_p() >= 0 && s.top_p() <= 1)) return bad("top_p", s.top_p(), "0 to 1");
  if (!(s.min_p() >= 0 && s.min_p() <= 1)) return bad("min_p", s.min_p(), "0 to 1");
  if (s.logprobs() > kLogprobsMax) return bad("logprobs", s.logprobs(), "at most 100");
  return {};
}

}  // namespace

double uniform_at(uint64_t seed, uint32_t choice, uint32_t position, uint32_t token) {
  return uniform_from(hash(row_key(seed, choice, position), token));
}

Result<v1::SampledToken> sample_token(const Ops& ops, std::span<const float> logits, const v1::Sampling& s,
                                      uint32_t position) {
  BP_TRY(check(s));
  const size_t best = ops.largest_index(logits.data(), logits.size());
  if (best == logits.size())
    return Error{ErrorCode::kCorruptData, "logits: found a number that is not finite; the weights are broken", {}};
  const float top = logits[best];
  v1::SampledToken out;
  std::vector<float> adjusted;
  std::span<const float> scores = logits;
  size_t first = best;
  if (wants_adjustment(s)) {
    BP_ASSIGN(adjusted, adjusted_logits(logits, s));
    scores = adjusted;
    first = ops.largest_index(adjusted.data(), adjusted.size());
    if (first == adjusted.size())
      return Error{ErrorCode::kInvalidArgument, "sampling: penalties and biases make a logit that is not finite", {}};
  }
  // Temperatures so small that only the largest logit has weight are greedy too.
  const bool greedy = s.temperature() < 1e-6f;
  out.set_token(greedy ? static_cast<uint32_t>(first) : draw(scores, s, position, scores[first]));
  const bool want_logprobs = s.want_logprob() || s.logprobs() > 0;
  float largest = top, sum = 1;
  if (want_logprobs) ops.max_and_exp_sum(logits.data(), logits.size(), &largest, &sum);
  const auto logprob = [&](uint32_t id) { return (logits[id] - top) - std::log(sum); };
  if (want_logprobs) out.set_logprob(logprob(out.token()));
  if (s.logprobs() > 0) {
    std::vector<uint32_t> ids(logits.size());
    std::iota(ids.begin(), ids.end(), 0u);
    const size_t n = std::min<size_t>(s.logprobs(), ids.size());
    sort_first(logits, ids, n);
    for (size_t i = 0; i < n; ++i) {
      v1::TokenLogprob* t = out.add_top();
      t->set_token(ids[i]);
      t->set_logprob(logprob(ids[i]));
    }
  }
  return out;
}

}  // namespace bp::rt
