#include "engine/plan/model_reader.h"

#include <algorithm>
#include <memory>

#include "engine/base/limits.h"

namespace bp::plan {
namespace {

constexpr uint64_t kWindowBytes = 2 << 20;
constexpr uint64_t kSmallFileBytes = 4 << 20;  // config.json and the like are some KB

// A parser asks for many small pieces; the store is asked for windows.
ReadAt windowed(const ObjectSource& source, const v1::PlannedObject& object) {
  struct Window {
    uint64_t begin = 0;
    std::string bytes;
  };
  auto window = std::make_shared<Window>();
  return [&source, &object, window](uint64_t offset, uint64_t size) -> Result<std::string> {
    const uint64_t file = object.size_bytes();
    if (offset > file || size > file - offset) {
      return Error{ErrorCode::kCorruptData, "bytes " + std::to_string(offset) + " + " + std::to_string(size) +
                                                " lie behind its end at " + std::to_string(file), {}};
    }
    Window& w = *window;
    const bool inside = offset >= w.begin && offset + size <= w.begin + w.bytes.size();
    if (inside) return w.bytes.substr(offset - w.begin, size);
    const uint64_t most = static_cast<uint64_t>(limits::kRangeBytes) * 4;
    std::string bytes;
    while (bytes.size() < size) {
      const uint64_t at = offset + bytes.size();
      const uint64_t want = std::min({std::max(size - bytes.size(), kWindowBytes), most, file - at});
      BP_ASSIGN(std::string part, source.read(object, at, want));
      bytes += part;
    }
    w.begin = offset;
    w.bytes = std::move(bytes);
    return w.bytes.substr(0, size);
  };
}

Error in_object(Error error, const ObjectSource& source, const v1::PlannedObject& object) {
  return std::move(error).with_context("object " + object.name() + " in " + source.describe(object));
}

}  // namespace

Result<ModelHeader> read_model(const ObjectSource& source, const ObjectSelection& selection) {
  ModelHeader model;
  std::string config_json, generation_json;
  const std::string folder = selection.model_file + "/";
  for (const auto& object : selection.objects) {
    if (selection.format == "gguf") {
      if (object.path() != selection.model_file) continue;
      auto header = parse_gguf(windowed(source, object), object.size_bytes());
      if (!header.ok()) return in_object(header.error(), source, object);
      auto config = config_from_gguf(*header);
      if (!config.ok()) return in_object(config.error(), source, object);
      return ModelHeader{std::move(*config), std::move(header->tensors)};
    }
    if (object.path().compare(0, folder.size(), folder) != 0) continue;
    const std::string file = object.path().substr(folder.size());
    if (file == "config.json" || file == "generation_config.json") {
      if (object.size_bytes() > kSmallFileBytes) {
        return in_object(Error{ErrorCode::kTooLarge, std::to_string(object.size_bytes()) + " bytes, at most " +
                                                         std::to_string(kSmallFileBytes) + " expected", {}},
                         source, object);
      }
      auto text = source.read(object, 0, object.size_bytes());
      if (!text.ok()) return in_object(text.error(), source, object);
      (file == "config.json" ? config_json : generation_json) = std::move(*text);
    } else if (file.find('/') == std::string::npos && file.size() > 12 &&
               file.compare(file.size() - 12, 12, ".safetensors") == 0) {
      auto tensors = parse_safetensors(windowed(source, object), object.size_bytes());
      if (!tensors.ok()) return in_object(tensors.error(), source, object);
      model.tensors.insert(model.tensors.end(), tensors->begin(), tensors->end());
    }
  }
  auto config = config_from_json(config_json, generation_json);
  if (!config.ok()) return Error(config.error()).with_context(folder + "config.json");
  model.config = std::move(*config);
  return model;
}

}  // namespace bp::plan
