// GGUF files and safetensors folders as WeightSources: both are tensors in mapped files under the names of
// plan's llama_tensor_name.
#include "runtime/weights/weight_source.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <unordered_map>

#include "engine/base/files.h"
#include "engine/plan/llama_tensors.h"
#include "runtime/weights/mapped_file.h"

namespace bp::rt {
namespace {

constexpr size_t kConfigBytes = 4 << 20;
constexpr size_t kShardFilesMax = 4096;

struct Placed {
  plan::TensorInfo info;
  size_t file = 0;
};

class MappedSource final : public WeightSource {
 public:
  const plan::ModelConfig& config() const override { return config_; }

  Result<plan::TensorInfo> find(const std::string& name) const override {
    const std::string file_name = format_ == plan::FileFormat::kGguf ? gguf_name(name) : name + ".weight";
    const auto it = tensors_.find(file_name);
    if (it == tensors_.end())
      return Error{ErrorCode::kNotFound, fmt::format("{}: no tensor {} ({})", path_, name, file_name), {}};
    return it->second.info;
  }

  std::span<const std::byte> bytes(const plan::TensorInfo& tensor) const override {
    const auto it = tensors_.find(tensor.name);
    BP_CHECK(it != tensors_.end());
    const Placed& p = it->second;
    return files_[p.file].bytes().subspan(p.info.offset, p.info.size_bytes);
  }

  void forget_pages() const override {
    for (const MappedFile& f : files_) f.forget_pages();
  }
  const std::string& content_key() const override { return key_; }

  Status open_gguf(const std::string& path) {
    path_ = path;
    format_ = plan::FileFormat::kGguf;
    BP_TRY(add_file(path));
    auto header = plan::parse_gguf(plan::read_at_memory(files_[0].text()), files_[0].bytes().size());
    if (!header.ok()) return std::move(header).error().with_context(path);
    auto config = plan::config_from_gguf(*header);
    if (!config.ok()) return std::move(config).error().with_context(path);
    config_ = std::move(config).value();
    return place_all({std::move(header->tensors)});
  }

  Status open_safetensors(const std::string& folder) {
    path_ = folder;
    format_ = plan::FileFormat::kSafetensors;
    BP_ASSIGN(const std::string config_text, read_file(folder + "/config.json", kConfigBytes));
    std::string generation;
    auto read = read_file(folder + "/generation_config.json", kConfigBytes);
    if (read.ok()) generation = std::move(read).value();
    else if (read.error().code != ErrorCode::kNotFound) return std::move(read).error();
    auto config = plan::config_from_json(config_text, generation);
    if (!config.ok()) return std::move(config).error().with_context(folder + "/config.json");
    config_ = std::move(config).value();
    BP_ASSIGN(const std::vector<std::string> names, shard_files(folder));
    std::vector<std::vector<plan::TensorInfo>> tensors;
    for (const std::string& name : names) {
      BP_TRY(add_file(folder + "/" + name));
      const MappedFile& file = files_.back();
      auto parsed = plan::parse_safetensors(plan::read_at_memory(file.text()), file.bytes().size());
      if (!parsed.ok()) return std::move(parsed).error().with_context(file.path());
      tensors.push_back(std::move(parsed).value());
    }
    return place_all(std::move(tensors));
  }

 private:
  Status add_file(const std::string& path) {
    BP_ASSIGN(MappedFile file, MappedFile::open(path));
    key_ += (format_ == plan::FileFormat::kGguf ? "gguf:" : "safetensors:") + file.identity() + ";";
    files_.push_back(std::move(file));
    return {};
  }

  static Result<std::vector<std::string>> shard_files(const std::string& folder) {
    DIR* dir = opendir(folder.c_str());
    if (!dir) return errno_error("open folder " + folder, errno);
    std::vector<std::string> names;
    while (const dirent* e = readdir(dir)) {
      const std::string name = e->d_name;
      if (name.size() > 12 && name.substr(name.size() - 12) == ".safetensors" && names.size() < kShardFilesMax)
        names.push_back(name);
    }
    closedir(dir);
    if (names.empty())
      return Error{ErrorCode::kNotFound, folder + ": found no .safetensors file beside config.json", {}};
    std::sort(names.begin(), names.end());
    return names;
  }

  /// `tensors` per file. The set of all must be exactly a Llama model, each tensor within its file.
  Status place_all(std::vector<std::vector<plan::TensorInfo>> tensors) {
    std::vector<plan::TensorInfo> all;
    for (size_t f = 0; f < tensors.size(); ++f)
      for (plan::TensorInfo& t : tensors[f]) {
        const size_t size = files_[f].bytes().size();
        if (t.offset > size || t.size_bytes > size - t.offset)
          return Error{ErrorCode::kCorruptData,
                       fmt::format("{}: tensor {}: found bytes {} + {}, expected at most {}", files_[f].path(),
                                   t.name, t.offset, t.size_bytes, size), {}};
        all.push_back(t);
        tensors_.emplace(t.name, Placed{t, f});
      }
    auto checked = plan::check_llama_tensors(config_.shape, format_, all);
    if (!checked.ok()) return std::move(checked).error().with_context(path_);
    return {};
  }

  /// "model.layers.3.mlp.up_proj" -> "blk.3.ffn_up.weight"; other names get ".weight" alone.
  static std::string gguf_name(const std::string& name) {
    for (const plan::LlamaRole role : plan::kModelRoles)
      if (llama_tensor_name(plan::FileFormat::kSafetensors, role) == name + ".weight")
        return llama_tensor_name(plan::FileFormat::kGguf, role);
    constexpr std::string_view kLayers = "model.layers.";
    if (name.compare(0, kLayers.size(), kLayers) == 0) {
      const size_t dot = name.find('.', kLayers.size());
      const std::string number = name.substr(kLayers.size(), dot - kLayers.size());
      if (dot != std::string::npos && !number.empty() && number.size() < 9 &&
          number.find_first_not_of("0123456789") == std::string::npos) {
        const auto layer = static_cast<uint32_t>(std::stoul(number));
        for (const plan::LlamaRole role : plan::kLayerRoles)
          if (llama_tensor_name(plan::FileFormat::kSafetensors, role, layer) == name + ".weight")
            return llama_tensor_name(plan::FileFormat::kGguf, role, layer);
      }
    }
    return name + ".weight";
  }

  std::string path_;
  plan::FileFormat format_ = plan::FileFormat::kGguf;
  plan::ModelConfig config_;
  std::vector<MappedFile> files_;
  std::unordered_map<std::string, Placed> tensors_;
  std::string key_;
};

}  // namespace

Result<std::unique_ptr<WeightSource>> open_weights(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) return errno_error("open " + path, errno);
  auto source = std::make_unique<MappedSource>();
  if (S_ISDIR(st.st_mode)) BP_TRY(source->open_safetensors(path));
  else BP_TRY(source->open_gguf(path));
  return std::unique_ptr<WeightSource>(std::move(source));
}

}  // namespace bp::rt
