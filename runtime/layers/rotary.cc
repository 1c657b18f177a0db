#include "runtime/layers/rotary.h"

#include <cmath>

#include "engine/base/check.h"

namespace bp::rt {
namespace {

float llama3_scaled(float inv_freq, const plan::RopeScaling& s) {
  const double wavelength = 2.0 * 3.14159265358979323846 / inv_freq;
  if (wavelength > s.original_context / s.low_freq_factor) return static_cast<float>(inv_freq / s.factor);
  if (wavelength < s.original_context / s.high_freq_factor) return inv_freq;
  const double ramp = (s.original_context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return static_cast<float>((1 - ramp) * inv_freq / s.factor + ramp * inv_freq);
}

}  // namespace

std::vector<float> rotary_frequencies(const plan::ModelConfig& config, std::span<const float> factors) {
  const uint32_t dim = config.shape.head_dim;
  std::vector<float> out(dim / 2);
  for (uint32_t i = 0; i < dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    out[i] = 1.0f / static_cast<float>(std::pow(config.rope_theta, static_cast<double>(exponent)));
    const plan::RopeScaling& s = config.rope_scaling;
    if (s.type == "linear") out[i] = static_cast<float>(out[i] / s.factor);
    if (s.type == "llama3") out[i] = llama3_scaled(out[i], s);
    if (s.type == "tensor") {
      BP_CHECK(factors.size() == out.size());
      out[i] /= factors[i];
    }
  }
  return out;
}

void rotary_table(std::span<const float> inv_freq, std::span<const uint32_t> positions, std::vector<float>& cos,
                  std::vector<float>& sin) {
  cos.resize(positions.size() * inv_freq.size());
  sin.resize(cos.size());
  size_t at = 0;
  for (const uint32_t position : positions)
    for (const float f : inv_freq) {
      const double angle = static_cast<float>(position) * f;
      cos[at] = static_cast<float>(std::cos(angle));
      sin[at++] = static_cast<float>(std::sin(angle));
    }
}

}  // namespace bp::rt
