#include "engine/plan/model_header.h"

namespace bp::plan {

const char* weight_type_name(WeightType t) {
  switch (t) {
    case WeightType::kF32:
      return "F32";
    case WeightType::kF16:
      return "F16";
    case WeightType::kBF16:
      return "BF16";
    case WeightType::kQ8_0:
      return "Q8_0";
    case WeightType::kQ4_0:
      return "Q4_0";
    case WeightType::kQ4_1:
      return "Q4_1";
  }
  return "?";
}

uint32_t block_elements(WeightType t) { return t <= WeightType::kBF16 ? 1 : 32; }

uint32_t block_bytes(WeightType t) {
  switch (t) {
    case WeightType::kF32:
      return 4;
    case WeightType::kF16:
    case WeightType::kBF16:
      return 2;
    case WeightType::kQ8_0:
      return 34;  // f16 scale, 32 x i8
    case WeightType::kQ4_0:
      return 18;  // f16 scale, 32 nibbles
    case WeightType::kQ4_1:
      return 20;  // f16 scale, f16 minimum, 32 nibbles
  }
  return 0;
}

ReadAt read_at_memory(std::string_view bytes) {
  return [bytes](uint64_t offset, uint64_t size) -> Result<std::string> {
    if (offset > bytes.size() || size > bytes.size() - offset) {
      return Error{ErrorCode::kCorruptData,
                   "read of " + std::to_string(size) + " bytes at " + std::to_string(offset) +
                       ": found a file of " + std::to_string(bytes.size()) + " bytes",
                   {}};
    }
    return std::string(bytes.substr(offset, size));
  };
}

}  // namespace bp::plan
