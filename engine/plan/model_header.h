// Headers of model files: what a model is and where its tensors lie, without reading weights. Every
// size is bounded and checked for overflow; an error names the place, what was found, what was expected.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/base/result.h"
#include "engine/plan/shard_plan.h"

namespace bp::plan {

enum class WeightType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1 };
const char* weight_type_name(WeightType t);
/// Elements per block (1 or 32) and bytes per block.
uint32_t block_elements(WeightType t);
uint32_t block_bytes(WeightType t);

/// A tensor as it lies in a file. `shape` is [out, in] (row-major, as PyTorch), GGUF's reversed.
struct TensorInfo {
  std::string name;          // as in the file
  WeightType type = WeightType::kF32;
  std::vector<uint64_t> shape;
  uint64_t offset = 0;       // from the start of the file
  uint64_t size_bytes = 0;
};

struct RopeScaling {
  // "none"; "linear": inv_freq / factor; "llama3": by wavelength; "tensor": inv_freq divided element-wise
  // by the tensor rope_freqs.weight [head_dim / 2] (how GGUF files carry llama3 scaling).
  std::string type = "none";
  double factor = 1.0, low_freq_factor = 1.0, high_freq_factor = 4.0;
  double original_context = 8192;
};

struct ModelConfig {
  std::string architecture;  // "llama"
  ModelShape shape;
  float rms_norm_eps = 1e-5f;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  // GGUF files of the llama architecture hold q and k rows for interleaved RoPE pairs (2i, 2i+1);
  // safetensors for rotate_half (i, i + d/2).
  bool rope_interleaved = false;
  uint32_t max_position = 0;
  int64_t bos_token = -1;
  std::vector<uint32_t> eos_tokens;
};

using MetaValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<std::string>,
                               std::vector<int64_t>, std::vector<double>>;

struct GgufHeader {
  uint32_t version = 0;
  std::map<std::string, MetaValue> meta;
  std::vector<TensorInfo> tensors;
  uint64_t data_start = 0;
};

/// Asks for more of a file: bytes [offset, offset + size). Lets a header be parsed over ranged GETs.
using ReadAt = std::function<Result<std::string>(uint64_t offset, uint64_t size)>;

/// Parses the header of a GGUF v2/v3 file of `file_bytes`. kCorruptData; kUnsupported names the type;
/// kTooLarge beyond limits.h. Guarantees: tensors lie within the file, aligned, without overlap, with
/// unique names, whole blocks per row. `read_at` is asked in growing pieces of at most 8 MiB.
Result<GgufHeader> parse_gguf(const ReadAt& read_at, uint64_t file_bytes);
/// Parses one safetensors header. Same guarantees; the tensors cover the data without gaps.
Result<std::vector<TensorInfo>> parse_safetensors(const ReadAt& read_at, uint64_t file_bytes);

/// kUnsupported: another architecture or a variant of Llama that is not computed (experts, biases, other
/// RoPE scaling); kCorruptData: keys missing or contradicting each other or the tensors' shapes.
Result<ModelConfig> config_from_gguf(const GgufHeader& header);
/// config.json of a LlamaForCausalLM, with generation_config.json's eos ids when given (may be empty).
Result<ModelConfig> config_from_json(std::string_view config_json, std::string_view generation_config_json);

/// Names of files in "weight_map" of model.safetensors.index.json, each once, sorted. kCorruptData: a name
/// that is not a plain file name.
Result<std::vector<std::string>> safetensors_index_files(std::string_view index_json);

/// A reader over memory, for mapped files and tests.
ReadAt read_at_memory(std::string_view bytes);

}  // namespace bp::plan
