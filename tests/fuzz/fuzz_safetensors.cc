// A safetensors header that parses covers its data without gap or overlap.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/plan/model_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto tensors = bp::plan::parse_safetensors(bp::plan::read_at_memory(file), size);
  if (!tensors.ok()) return 0;
  uint64_t bytes = 0;
  for (const auto& t : *tensors) {
    if (t.offset > size || t.size_bytes > size - t.offset) std::abort();
    bytes += t.size_bytes;
  }
  if (bytes > size) std::abort();
  return 0;
}
