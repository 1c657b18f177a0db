// config.json, generation_config.json and model.safetensors.index.json: any text gives a sound
// config or an error.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/plan/model_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = text.find('\0');
  const std::string_view first = text.substr(0, cut);
  const std::string_view second =
      cut == std::string_view::npos ? std::string_view() : text.substr(cut + 1);
  const auto config = bp::plan::config_from_json(first, second);
  if (config.ok()) {
    for (const uint32_t id : config->eos_tokens) {
      if (id >= config->shape.vocab) std::abort();
    }
    (void)bp::plan::make_shard_plan(config->shape, 2, 2);
  }
  const auto files = bp::plan::safetensors_index_files(first);
  if (files.ok()) {
    for (const auto& f : *files) {
      if (f.find('/') != std::string::npos || f == "..") std::abort();
    }
  }
  return 0;
}
