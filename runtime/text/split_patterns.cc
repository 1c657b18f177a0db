// How texts are cut into words before merging. Sources: GPT-2's encoder.py; the pre_tokenizer
// sections of the models' tokenizer.json; names as in GGUF's tokenizer.ggml.pre.
#include <fmt/format.h>

#include <array>

#include "runtime/text/vocab.h"

namespace bp::rt {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

const char* const kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

struct ByteTable {
  std::array<int, 512> byte_of;  // code point -> byte, -1: none
  ByteTable() {
    byte_of.fill(-1);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      byte_of[static_cast<size_t>(printable ? b : next++)] = b;
    }
  }
};

}  // namespace

Result<std::vector<std::string>> split_patterns_of(const std::string& pre) {
  using List = std::vector<std::string>;
  if (pre == "gpt-2" || pre == "gpt2") return List{kGpt2Pattern};
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") return List{kLlama3Pattern};
  if (pre == "qwen2") return List{kQwen2Pattern};
  if (pre == "smollm") return List{R"(\p{N})", kGpt2Pattern};
  if (pre == "default")
    return List{R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"};
  return Error{
      ErrorCode::kUnsupported,
      fmt::format(
          "tokenizer.ggml.pre: found '{}', expected smollm, llama-bpe, gpt-2, qwen2 or default",
          pre),
      {}};
}

bool bytes_from_gpt2(std::string_view spelled, std::string& out) {
  static const ByteTable kTable;
  out.clear();
  for (size_t i = 0; i < spelled.size();) {
    auto c = static_cast<unsigned char>(spelled[i]);
    uint32_t cp = c;
    if (c >= 0x80) {
      if (c < 0xc2 || c > 0xc7 || i + 1 >= spelled.size()) return false;  // below code point 512
      cp = static_cast<uint32_t>(c & 31) << 6 | (static_cast<unsigned char>(spelled[i + 1]) & 63u);
      ++i;
    }
    ++i;
    if (kTable.byte_of[cp] < 0) return false;
    out += static_cast<char>(kTable.byte_of[cp]);
  }
  return true;
}

}  // namespace bp::rt
