// Rotary position embedding: frequencies of a model and the cosines and sines of a step's positions.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engine/plan/model_header.h"

namespace bp::rt {

/// inv_freq [head_dim / 2] in FP32, as transformers computes it. Scaling "linear", "llama3" (Llama 3.1:
/// long wavelengths divided by factor, a ramp between) or "tensor" (divided by `factors`, [head_dim / 2]).
std::vector<float> rotary_frequencies(const plan::ModelConfig& config, std::span<const float> factors);

/// cos and sin [positions, head_dim / 2]: of the FP32 product position * inv_freq, rounded once.
void rotary_table(std::span<const float> inv_freq, std::span<const uint32_t> positions, std::vector<float>& cos,
                  std::vector<float>& sin);

}  // namespace bp::rt
