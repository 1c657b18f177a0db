// A GGUF header that parses keeps its promises: tensors within the file, whole blocks, a plan from
// its config.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/plan/llama_tensors.h"
#include "engine/plan/model_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto header = bp::plan::parse_gguf(bp::plan::read_at_memory(file), size);
  if (!header.ok()) return 0;
  for (const auto& t : header->tensors) {
    if (t.offset < header->data_start || t.offset > size || t.size_bytes > size - t.offset)
      std::abort();
    if (t.size_bytes % bp::plan::block_bytes(t.type) != 0) std::abort();
  }
  const auto config = bp::plan::config_from_gguf(*header);
  if (!config.ok()) return 0;
  if (!bp::plan::check_llama_tensors(config->shape, bp::plan::FileFormat::kGguf, header->tensors)
           .ok())
    std::abort();
  for (const uint32_t tp : {1u, 2u, 3u}) (void)bp::plan::make_shard_plan(config->shape, tp, 2);
  return 0;
}
