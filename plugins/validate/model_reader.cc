#include "plugins/validate/model_reader.h"

#include <algorithm>

#include "engine/base/limits.h"

namespace bp::stages {
namespace {

constexpr uint64_t kWindowBytes = 2 << 20;
constexpr uint64_t kSmallFileBytes = 4 << 20;  // config.json and the like are some KB

// A parser asks for many small pieces; the store is asked for windows.
plan::ReadAt windowed(fetch::ObjectStore& store, const v1::PlannedObject& object, Deadline deadline) {
  struct Window {
    uint64_t begin = 0;
    std::string bytes;
  };
  auto window = std::make_shared<Window>();
  return [&store, &object, deadline, window](uint64_t offset, uint64_t size) -> Result<std::string> {
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
      BP_ASSIGN(std::string part, store.read(object.name(), at, want, deadline));
      bytes += part;
    }
    w.begin = offset;
    w.bytes = std::move(bytes);
    return w.bytes.substr(0, size);
  };
}

Error in_object(Error error, const fetch::ObjectStore& store, const v1::PlannedObject& object) {
  return std::move(error).with_context("object " + object.name() + " in " + store.describe());
}

}  // namespace

Result<ModelHeader> read_model(const std::vector<std::unique_ptr<fetch::ObjectStore>>& stores,
                               const plan::ObjectSelection& selection, Deadline deadline) {
  ModelHeader model;
  std::string config_json, generation_json;
  const std::string folder = selection.model_file + "/";
  for (const auto& object : selection.objects) {
    fetch::ObjectStore& store = *stores[object.storage_index()];
    if (selection.format == "gguf") {
      if (object.path() != selection.model_file) continue;
      auto header = plan::parse_gguf(windowed(store, object, deadline), object.size_bytes());
      if (!header.ok()) return in_object(header.error(), store, object);
      auto config = plan::config_from_gguf(*header);
      if (!config.ok()) return in_object(config.error(), store, object);
      return ModelHeader{std::move(*config), std::move(header->tensors)};
    }
    if (object.path().compare(0, folder.size(), folder) != 0) continue;
    const std::string file = object.path().substr(folder.size());
    if (file == "config.json" || file == "generation_config.json") {
      if (object.size_bytes() > kSmallFileBytes) {
        return in_object(Error{ErrorCode::kTooLarge, std::to_string(object.size_bytes()) + " bytes, at most " +
                                                         std::to_string(kSmallFileBytes) + " expected", {}},
                         store, object);
      }
      auto text = store.read(object.name(), 0, object.size_bytes(), deadline);
      if (!text.ok()) return in_object(text.error(), store, object);
      (file == "config.json" ? config_json : generation_json) = std::move(*text);
    } else if (file.find('/') == std::string::npos && file.size() > 12 &&
               file.compare(file.size() - 12, 12, ".safetensors") == 0) {
      auto tensors = plan::parse_safetensors(windowed(store, object, deadline), object.size_bytes());
      if (!tensors.ok()) return in_object(tensors.error(), store, object);
      model.tensors.insert(model.tensors.end(), tensors->begin(), tensors->end());
    }
  }
  auto config = plan::config_from_json(config_json, generation_json);
  if (!config.ok()) return Error(config.error()).with_context(folder + "config.json");
  model.config = std::move(*config);
  return model;
}

}  // namespace bp::stages
