// WeightSource: the tensors of a model on disk under one set of names, whatever the format.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/plan/model_header.h"

namespace bp::rt {

/// Which tensor: Hugging Face names without ".weight" ("model.layers.0.self_attn.q_proj").
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const plan::ModelConfig& config() const = 0;
  /// kNotFound when the model has none (lm_head of a tied model).
  virtual Result<plan::TensorInfo> find(const std::string& name) const = 0;
  /// The mapped bytes of that tensor, read-only; valid while the source lives.
  virtual std::span<const std::byte> bytes(const plan::TensorInfo& tensor) const = 0;
  /// Nobody will ask for bytes soon: the mapped pages need not stay in memory.
  virtual void forget_pages() const = 0;
  /// Names content, format and conversion: equal keys mean equal weights.
  virtual const std::string& content_key() const = 0;
};

/// Opens a .gguf file or a folder with config.json and safetensors. Maps files, reads nothing else.
/// kCorruptData names file, place, found, expected; kUnsupported names architecture or type.
Result<std::unique_ptr<WeightSource>> open_weights(const std::string& path);

}  // namespace bp::rt
