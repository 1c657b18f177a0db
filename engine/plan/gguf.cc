// GGUF v2/v3. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <type_traits>

#include "engine/base/limits.h"
#include "engine/plan/model_header.h"
#include "engine/plan/tensor_extent.h"

namespace bp::plan {
namespace {

constexpr uint64_t kFirstPiece = 64 << 10;
constexpr uint64_t kLargestPiece = 8 << 20;

Error corrupt(const std::string& where, const std::string& found, const std::string& expected) {
  return Error{ErrorCode::kCorruptData,
               fmt::format("GGUF {}: found {}, expected {}", where, found, expected),
               {}};
}

/// Reads little-endian values in order, fetching the file in growing pieces.
class Cursor {
 public:
  Cursor(const ReadAt& read_at, uint64_t file_bytes)
      : read_at_(read_at),
        end_(std::min(file_bytes, limits::kModelHeaderBytes)),
        file_bytes_(file_bytes) {}

  uint64_t position() const { return start_ + used_; }
  uint64_t left() const { return end_ - position(); }

  template <class T>
  Result<T> number(const std::string& where) {
    static_assert(std::is_arithmetic_v<T>);
    BP_TRY(need(sizeof(T), where));
    T v;
    std::memcpy(&v, piece_.data() + used_, sizeof v);
    used_ += sizeof v;
    return v;
  }

  Result<std::string> text(const std::string& where, uint64_t max_bytes) {
    BP_ASSIGN(const uint64_t size, number<uint64_t>(where));
    if (size > max_bytes) {
      return corrupt(where, fmt::format("a string of {} bytes", size),
                     fmt::format("at most {}", max_bytes));
    }
    BP_TRY(need(size, where));
    std::string s = piece_.substr(used_, size);
    used_ += size;
    return s;
  }

 private:
  Status need(uint64_t size, const std::string& where) {
    const uint64_t have = piece_.size() - used_;
    if (have >= size) return {};
    if (size > left()) {
      if (end_ < file_bytes_) {
        return Error{
            ErrorCode::kTooLarge,
            fmt::format("GGUF {}: found a header beyond {} bytes, expected less", where, end_),
            {}};
      }
      return corrupt(where, fmt::format("the end of the file at {}", end_),
                     fmt::format("{} more bytes", size - left()));
    }
    const uint64_t at = start_ + piece_.size();
    const uint64_t want = std::min(std::max(size - have, next_piece_), end_ - at);
    BP_ASSIGN(std::string more, read_at_(at, want));
    if (more.size() != want) {
      return corrupt(where, fmt::format("{} bytes at {}", more.size(), at),
                     fmt::format("{}", want));
    }
    start_ += used_;
    piece_.erase(0, used_);
    used_ = 0;
    piece_ += more;
    next_piece_ = std::min(next_piece_ * 4, kLargestPiece);
    return {};
  }

  const ReadAt& read_at_;
  uint64_t end_, file_bytes_;
  uint64_t start_ = 0;  // file offset of piece_[0]
  uint64_t used_ = 0;
  uint64_t next_piece_ = kFirstPiece;
  std::string piece_;
};

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kFloat64
};

template <class Wide, class T>
Result<MetaValue> wide_number(Cursor& in, const std::string& where) {
  BP_ASSIGN(const T v, in.number<T>(where));
  return MetaValue{static_cast<Wide>(v)};
}

Result<MetaValue> read_scalar(Cursor& in, uint32_t type, const std::string& where) {
  switch (type) {
    case kU8:
      return wide_number<uint64_t, uint8_t>(in, where);
    case kI8:
      return wide_number<int64_t, int8_t>(in, where);
    case kU16:
      return wide_number<uint64_t, uint16_t>(in, where);
    case kI16:
      return wide_number<int64_t, int16_t>(in, where);
    case kU32:
      return wide_number<uint64_t, uint32_t>(in, where);
    case kI32:
      return wide_number<int64_t, int32_t>(in, where);
    case kU64:
      return wide_number<uint64_t, uint64_t>(in, where);
    case kI64:
      return wide_number<int64_t, int64_t>(in, where);
    case kFloat32:
      return wide_number<double, float>(in, where);
    case kFloat64:
      return wide_number<double, double>(in, where);
    case kBool: {
      BP_ASSIGN(const uint8_t v, in.number<uint8_t>(where));
      if (v > 1) return corrupt(where, fmt::format("the truth value {}", v), "0 or 1");
      return MetaValue{v == 1};
    }
    case kString: {
      BP_ASSIGN(std::string s, in.text(where, limits::kModelHeaderBytes));
      return MetaValue{std::move(s)};
    }
    default:
      return corrupt(where, fmt::format("value type {}", type), "0 to 12");
  }
}

/// Smallest size of an element in the file: a count that cannot lie in the rest of it is refused
/// early.
uint64_t least_bytes(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kFloat32:
      return 4;
    default:
      return 8;
  }
}

Result<MetaValue> read_array(Cursor& in, const std::string& where, uint64_t& elements_left) {
  BP_ASSIGN(const uint32_t type, in.number<uint32_t>(where));
  BP_ASSIGN(const uint64_t count, in.number<uint64_t>(where));
  if (type > kFloat64 || type == kArray) {
    return corrupt(where, fmt::format("an array of value type {}", type),
                   "one of numbers, bools or strings");
  }
  if (count > elements_left || count > in.left() / least_bytes(type)) {
    return corrupt(
        where, fmt::format("an array of {} elements", count),
        fmt::format("at most {}", std::min(elements_left, in.left() / least_bytes(type))));
  }
  elements_left -= count;
  std::vector<std::string> texts;
  std::vector<int64_t> integers;
  std::vector<double> floats;
  for (uint64_t i = 0; i < count; ++i) {
    BP_ASSIGN(MetaValue v, read_scalar(in, type, where));
    if (auto* s = std::get_if<std::string>(&v)) {
      texts.push_back(std::move(*s));
    } else if (auto* d = std::get_if<double>(&v)) {
      floats.push_back(*d);
    } else if (auto* u = std::get_if<uint64_t>(&v)) {
      if (*u > INT64_MAX) return corrupt(where, fmt::format("element {}", *u), "at most 2^63 - 1");
      integers.push_back(static_cast<int64_t>(*u));
    } else if (auto* b = std::get_if<bool>(&v)) {
      integers.push_back(*b);
    } else {
      integers.push_back(std::get<int64_t>(v));
    }
  }
  if (type == kString) return MetaValue{std::move(texts)};
  if (type == kFloat32 || type == kFloat64) return MetaValue{std::move(floats)};
  return MetaValue{std::move(integers)};
}

Status read_metadata(Cursor& in, uint64_t count, GgufHeader& header) {
  uint64_t elements_left = limits::kMetadataArrayMax;
  for (uint64_t i = 0; i < count; ++i) {
    BP_ASSIGN(std::string key, in.text(fmt::format("key {}", i), limits::kNameBytes));
    const std::string where = "key " + key;
    BP_ASSIGN(const uint32_t type, in.number<uint32_t>(where));
    BP_ASSIGN(MetaValue value,
              type == kArray ? read_array(in, where, elements_left) : read_scalar(in, type, where));
    if (!header.meta.emplace(std::move(key), std::move(value)).second) {
      return corrupt(where, "it twice", "every key once");
    }
  }
  return {};
}

Result<WeightType> weight_type_of(uint32_t type, const std::string& where) {
  switch (type) {
    case 0:
      return WeightType::kF32;
    case 1:
      return WeightType::kF16;
    case 2:
      return WeightType::kQ4_0;
    case 3:
      return WeightType::kQ4_1;
    case 8:
      return WeightType::kQ8_0;
    case 30:
      return WeightType::kBF16;
  }
  static constexpr const char* kOthers[] = {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                                            "Q5_0",  "Q5_1",  nullptr, "Q8_1",  "Q2_K",  "Q3_K",
                                            "Q4_K",  "Q5_K",  "Q6_K",  "Q8_K"};
  const char* name = type < std::size(kOthers) ? kOthers[type] : nullptr;
  return Error{
      ErrorCode::kUnsupported,
      fmt::format("GGUF {}: found type {}{}{}, expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1",
                  where, type, name ? " " : "", name ? name : ""),
      "Convert the file to one of the listed types"};
}

Result<TensorInfo> read_tensor(Cursor& in, uint64_t index) {
  TensorInfo t;
  BP_ASSIGN(t.name, in.text(fmt::format("tensor {}", index), limits::kNameBytes));
  const std::string where = "tensor " + t.name;
  if (t.name.empty()) return corrupt(fmt::format("tensor {}", index), "no name", "one");
  BP_ASSIGN(const uint32_t dims, in.number<uint32_t>(where));
  if (dims < 1 || dims > 4) return corrupt(where, fmt::format("{} dimensions", dims), "1 to 4");
  t.shape.resize(dims);
  for (uint32_t i = 0; i < dims; ++i) {
    BP_ASSIGN(t.shape[dims - 1 - i], in.number<uint64_t>(where));
  }
  BP_ASSIGN(const uint32_t type, in.number<uint32_t>(where));
  BP_ASSIGN(t.type, weight_type_of(type, where));
  BP_ASSIGN(t.offset, in.number<uint64_t>(where));
  BP_TRY(set_tensor_size(t));
  return t;
}

Result<uint64_t> alignment_of(const GgufHeader& header) {
  auto it = header.meta.find("general.alignment");
  if (it == header.meta.end()) return uint64_t{32};
  const auto* v = std::get_if<uint64_t>(&it->second);
  if (!v || *v < 8 || *v > (1 << 20) || (*v & (*v - 1)) != 0) {
    return corrupt("key general.alignment", v ? std::to_string(*v) : "no unsigned number",
                   "a power of two from 8 to 1048576");
  }
  return *v;
}

/// Turns offsets from the start of the data into offsets from the start of the file.
Status place_tensors(GgufHeader& header, uint64_t header_end, uint64_t file_bytes) {
  BP_ASSIGN(const uint64_t alignment, alignment_of(header));
  header.data_start = (header_end + alignment - 1) / alignment * alignment;
  if (header.data_start > file_bytes) {
    if (header.tensors.empty())
      header.data_start = file_bytes;
    else
      return corrupt("data", fmt::format("a file of {} bytes", file_bytes),
                     fmt::format("data from byte {} on", header.data_start));
  }
  for (TensorInfo& t : header.tensors) {
    if (t.offset % alignment != 0) {
      return corrupt("tensor " + t.name, fmt::format("offset {}", t.offset),
                     fmt::format("a multiple of {}", alignment));
    }
    if (t.offset > file_bytes - header.data_start) {
      return corrupt("tensor " + t.name, fmt::format("offset {}", t.offset),
                     fmt::format("at most {} in a file of {} bytes", file_bytes - header.data_start,
                                 file_bytes));
    }
    t.offset += header.data_start;
  }
  return check_extents(header.tensors, header.data_start, file_bytes, false);
}

}  // namespace

Result<GgufHeader> parse_gguf(const ReadAt& read_at, uint64_t file_bytes) {
  Cursor in(read_at, file_bytes);
  GgufHeader header;
  BP_ASSIGN(const uint32_t magic, in.number<uint32_t>("magic"));
  if (magic != 0x46554747)
    return corrupt("magic", fmt::format("{:#010x}", magic), "0x46554747 (\"GGUF\")");
  BP_ASSIGN(header.version, in.number<uint32_t>("version"));
  if (header.version != 2 && header.version != 3) {
    return Error{
        ErrorCode::kUnsupported,
        fmt::format("GGUF version: found {}, expected 2 or 3 (little-endian)", header.version),
        {}};
  }
  BP_ASSIGN(const uint64_t tensors, in.number<uint64_t>("tensor count"));
  if (tensors > limits::kTensorsMax) {
    return corrupt("tensor count", std::to_string(tensors),
                   fmt::format("at most {}", limits::kTensorsMax));
  }
  BP_ASSIGN(const uint64_t entries, in.number<uint64_t>("metadata count"));
  if (entries > limits::kMetadataEntriesMax) {
    return corrupt("metadata count", std::to_string(entries),
                   fmt::format("at most {}", limits::kMetadataEntriesMax));
  }
  BP_TRY(read_metadata(in, entries, header));
  for (uint64_t i = 0; i < tensors; ++i) {
    BP_ASSIGN(TensorInfo t, read_tensor(in, i));
    header.tensors.push_back(std::move(t));
  }
  BP_TRY(place_tensors(header, in.position(), file_bytes));
  return header;
}

}  // namespace bp::plan
