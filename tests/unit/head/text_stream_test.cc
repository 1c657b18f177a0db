#include "runtime/head/text_stream.h"

#include <catch2/catch.hpp>
#include <random>

#include "runtime/text/utf8.h"

namespace bp::rt {
namespace {

/// Tokens are bytes.
class ByteTokenizer final : public Tokenizer {
 public:
  std::vector<uint32_t> encode(std::string_view text, bool, bool) const override {
    std::vector<uint32_t> out;
    for (char c : text) out.push_back(static_cast<unsigned char>(c));
    return out;
  }
  std::string token_bytes(uint32_t token, bool) const override {
    return std::string(1, static_cast<char>(token));
  }
  std::string decode(const std::vector<uint32_t>&, bool) const override { return {}; }
  uint32_t vocab_size() const override { return 256; }
  const std::vector<uint32_t>& eos_tokens() const override { return none_; }
  size_t longest_token_bytes() const override { return 1; }
  Result<std::string> apply_chat_template(const std::vector<ChatMessage>&, bool) const override {
    return Error{ErrorCode::kUnsupported, "", {}};
  }

 private:
  std::vector<uint32_t> none_;
};

std::string run(const std::string& text, const std::vector<std::string>& stops,
                bool* stopped = nullptr) {
  ByteTokenizer tokenizer;
  TextStream stream(tokenizer, stops);
  std::string out;
  for (uint32_t t : tokenizer.encode(text, false, false)) {
    std::string piece = stream.push(t);
    CHECK(is_valid_utf8(piece));
    out += piece;
    if (stream.stopped()) break;
  }
  out += stream.finish();
  if (stopped) *stopped = stream.stopped();
  return out;
}

}  // namespace

TEST_CASE("stop strings are never shown, and nothing else is lost", "[text_stream]") {
  bool stopped = false;
  CHECK(run("hello world", {"lo w"}, &stopped) == "hel");
  CHECK(stopped);
  CHECK(run("aaab", {"aab"}) == "a");
  CHECK(run("abcabd", {"abd"}) == "abc");
  CHECK(run("end with a half sto", {"stop"}, &stopped) == "end with a half sto");
  CHECK(!stopped);
  CHECK(run("x\n\ny", {"\n\n", "y"}) == "x");
  CHECK(run("caf\xc3\xa9!", {"\xc3\xa9"}) == "caf");
  CHECK(run("stop", {"stop"}) == "");
  CHECK(run("broken \xe2\x82", {}) == "broken \xef\xbf\xbd");
}

TEST_CASE("random texts and stops agree with a search over the whole text", "[text_stream]") {
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    auto word = [&](uint32_t n) {
      std::string s;
      for (uint32_t k = 0, size = 1 + static_cast<uint32_t>(random() % n); k < size; ++k)
        s += static_cast<char>('a' + random() % 2);
      return s;
    };
    std::string text = word(30);
    std::vector<std::string> stops{word(4), word(5)};
    // The stop that is complete first decides; of those complete at once, the one that begins
    // first.
    std::string want = text;
    for (size_t end = 1; end <= text.size(); ++end) {
      size_t first = std::string::npos;
      for (const auto& s : stops) {
        if (end >= s.size() && text.compare(end - s.size(), s.size(), s) == 0)
          first = std::min(first, end - s.size());
      }
      if (first != std::string::npos) {
        want = text.substr(0, first);
        break;
      }
    }
    INFO(text << " | " << stops[0] << " | " << stops[1]);
    CHECK(run(text, stops) == want);
  }
}

}  // namespace bp::rt
