// safetensors. Format: https://huggingface.co/docs/safetensors (u64 length, JSON header, data
// without gaps).
#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstring>
#include <set>

#include "engine/base/limits.h"
#include "engine/plan/json_text.h"
#include "engine/plan/model_header.h"
#include "engine/plan/tensor_extent.h"

namespace bp::plan {
namespace {

namespace json = boost::json;

Error corrupt(const std::string& where, const std::string& found, const std::string& expected) {
  return Error{ErrorCode::kCorruptData,
               fmt::format("safetensors {}: found {}, expected {}", where, found, expected),
               {}};
}

bool as_unsigned(const json::value& v, uint64_t& out) {
  if (v.is_uint64())
    out = v.get_uint64();
  else if (v.is_int64() && v.get_int64() >= 0)
    out = static_cast<uint64_t>(v.get_int64());
  else
    return false;
  return true;
}

Result<WeightType> weight_type_of(const json::value* dtype, const std::string& where) {
  if (!dtype || !dtype->is_string()) return corrupt(where, "no dtype", "a string");
  const json::string& s = dtype->get_string();
  if (s == "F32") return WeightType::kF32;
  if (s == "F16") return WeightType::kF16;
  if (s == "BF16") return WeightType::kBF16;
  return Error{ErrorCode::kUnsupported,
               fmt::format("safetensors {}: found dtype {}, expected one of F32, F16, BF16", where,
                           std::string_view(s).substr(0, 32)),
               {}};
}

Result<TensorInfo> read_tensor(std::string_view name, const json::value& v, uint64_t data_start,
                               uint64_t data_bytes) {
  const std::string where = fmt::format("tensor {}", name.substr(0, limits::kNameBytes));
  if (name.empty() || name.size() > limits::kNameBytes) {
    return corrupt(where, fmt::format("a name of {} bytes", name.size()),
                   fmt::format("1 to {}", limits::kNameBytes));
  }
  if (!v.is_object()) return corrupt(where, "no object", "dtype, shape, data_offsets");
  const json::object& o = v.get_object();
  TensorInfo t;
  t.name = name;
  BP_ASSIGN(t.type, weight_type_of(o.if_contains("dtype"), where));
  const json::value* shape = o.if_contains("shape");
  if (!shape || !shape->is_array() || shape->get_array().empty() ||
      shape->get_array().size() > size_t{limits::kTensorDimsMax}) {
    return corrupt(where, "no usable shape",
                   fmt::format("an array of 1 to {} sizes", limits::kTensorDimsMax));
  }
  for (const json::value& d : shape->get_array()) {
    uint64_t n = 0;
    if (!as_unsigned(d, n))
      return corrupt(where, "a shape with something else", "unsigned numbers");
    t.shape.push_back(n);
  }
  BP_TRY(set_tensor_size(t));
  const json::value* offsets = o.if_contains("data_offsets");
  uint64_t begin = 0, end = 0;
  if (!offsets || !offsets->is_array() || offsets->get_array().size() != 2 ||
      !as_unsigned(offsets->get_array()[0], begin) || !as_unsigned(offsets->get_array()[1], end)) {
    return corrupt(where, "no usable data_offsets", "[begin, end]");
  }
  if (begin > end || end > data_bytes || end - begin != t.size_bytes) {
    return corrupt(where, fmt::format("data_offsets [{}, {}]", begin, end),
                   fmt::format("{} bytes within the {} bytes of data", t.size_bytes, data_bytes));
  }
  t.offset = data_start + begin;
  return t;
}

}  // namespace

Result<std::vector<TensorInfo>> parse_safetensors(const ReadAt& read_at, uint64_t file_bytes) {
  if (file_bytes < 10) return corrupt("file", fmt::format("{} bytes", file_bytes), "at least 10");
  BP_ASSIGN(const std::string prefix, read_at(0, 8));
  if (prefix.size() != 8)
    return corrupt("file", fmt::format("{} bytes", prefix.size()), "8 at its start");
  uint64_t header_bytes;
  std::memcpy(&header_bytes, prefix.data(), 8);
  const uint64_t most = std::min(file_bytes - 8, limits::kSafetensorsHeaderBytes);
  if (header_bytes < 2 || header_bytes > most) {
    return corrupt("header length", std::to_string(header_bytes), fmt::format("2 to {}", most));
  }
  BP_ASSIGN(const std::string text, read_at(8, header_bytes));
  if (text.size() != header_bytes) {
    return corrupt("header", fmt::format("{} bytes", text.size()), std::to_string(header_bytes));
  }
  auto parsed = parse_json_text(text, limits::kSafetensorsHeaderBytes);
  if (!parsed.ok()) return std::move(parsed).error().with_context("safetensors header");
  if (!parsed->is_object()) return corrupt("header", "no object", "one");
  const json::object& header = parsed->get_object();
  if (header.size() > limits::kTensorsMax) {
    return corrupt("header", fmt::format("{} tensors", header.size()),
                   fmt::format("at most {}", limits::kTensorsMax));
  }
  const uint64_t data_start = 8 + header_bytes;
  std::vector<TensorInfo> tensors;
  for (const auto& [name, value] : header) {
    if (name == "__metadata__") continue;
    BP_ASSIGN(TensorInfo t, read_tensor(name, value, data_start, file_bytes - data_start));
    tensors.push_back(std::move(t));
  }
  BP_TRY(check_extents(tensors, data_start, file_bytes, true));
  return tensors;
}

Result<std::vector<std::string>> safetensors_index_files(std::string_view index_json) {
  auto parsed = parse_json_text(index_json, limits::kSafetensorsHeaderBytes);
  if (!parsed.ok()) return std::move(parsed).error().with_context("model.safetensors.index.json");
  const json::value* map =
      parsed->is_object() ? parsed->get_object().if_contains("weight_map") : nullptr;
  if (!map || !map->is_object() || map->get_object().empty()) {
    return corrupt("index", "no weight_map", "an object of tensor names and files");
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->get_object()) {
    const std::string name = file.is_string() ? std::string(file.get_string()) : std::string();
    if (name.empty() || name.size() > limits::kNameBytes || name.find('/') != std::string::npos ||
        name == "." || name == ".." || name.find('\0') != std::string::npos) {
      return corrupt("index entry " + std::string(tensor).substr(0, limits::kNameBytes),
                     "no plain file name", "one in the same folder");
    }
    files.insert(name);
  }
  return std::vector<std::string>(files.begin(), files.end());
}

}  // namespace bp::plan
