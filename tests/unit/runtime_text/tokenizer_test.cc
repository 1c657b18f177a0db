#include "runtime/text/tokenizer.h"

#include <unistd.h>

#include <fstream>

#include "golden.h"
#include "runtime/text/utf8.h"
#include "runtime/text/vocab.h"

namespace bp::rt {
namespace {

std::unique_ptr<Tokenizer> open_or_fail(const std::string& path) {
  auto t = Tokenizer::open(path);
  INFO((t.ok() ? "" : t.error().to_string()) << " (./setup.sh fetches the example model)");
  REQUIRE(t.ok());
  return *std::move(t);
}

void compare_with_golden(const Tokenizer& tokenizer, const std::string& golden, bool round_trip) {
  auto rows = load_golden(golden);
  for (const auto& row : rows.as_array()) {
    std::string text(row.at("text").as_string());
    std::vector<uint32_t> want;
    for (const auto& id : row.at("ids").as_array())
      want.push_back(static_cast<uint32_t>(id.as_int64()));
    INFO("text: " << text);
    auto got = tokenizer.encode(text, true, true);
    CHECK(got == want);
    if (round_trip) CHECK(tokenizer.decode(tokenizer.encode(text, false, true), true) == text);
  }
}

}  // namespace

TEST_CASE("token ids equal those of the tokenizers library", "[tokenizer]") {
  SECTION("GGUF, smollm") {
    compare_with_golden(*open_or_fail(example_model()), "smollm2.json", true);
  }
  SECTION("tokenizer.json, byte-level BPE as llama-bpe") {
    compare_with_golden(*open_or_fail(kGoldenText + "small_bpe"), "small_bpe.json", true);
  }
  SECTION("tokenizer.json, SentencePiece BPE with byte fallback") {
    compare_with_golden(*open_or_fail(kGoldenText + "small_spm"), "small_spm.json", false);
  }
}

TEST_CASE("special tokens are recognised only when asked", "[tokenizer]") {
  auto t = open_or_fail(example_model());
  CHECK(t->encode("<|im_end|>", false, true) == std::vector<uint32_t>{2});
  auto plain = t->encode("<|im_end|>", false, false);
  CHECK(plain.size() > 1);
  CHECK(t->decode(plain) == "<|im_end|>");
  CHECK(t->token_bytes(2).empty());
  CHECK(t->token_bytes(2, true) == "<|im_end|>");
  CHECK(t->token_bytes(4'000'000'000u).empty());
  CHECK(t->eos_tokens() == std::vector<uint32_t>{2});
  CHECK(t->vocab_size() == 49152);
}

TEST_CASE("a model's own chat template makes the prompt", "[tokenizer]") {
  auto t = open_or_fail(example_model());
  auto prompt = t->apply_chat_template({{"user", "Hi"}}, true);
  REQUIRE(prompt.ok());
  CHECK(*prompt ==
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        "Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  auto small = open_or_fail(kGoldenText + "small_bpe");
  CHECK(*small->apply_chat_template({{"user", "Hi"}}, true) == "<|begin|>user: Hi<|im_end|>");
  CHECK(small->eos_tokens() == std::vector<uint32_t>{2, 1});
  auto spm = open_or_fail(kGoldenText + "small_spm");
  CHECK(spm->apply_chat_template({{"user", "Hi"}}, true).error().code == ErrorCode::kUnsupported);
}

TEST_CASE("invalid UTF-8 and long words are encoded in bounded time", "[tokenizer]") {
  auto t = open_or_fail(example_model());
  CHECK(t->decode(t->encode("a\xff\xc3(b\xe2\x82", false, true)) == "a\uFFFD\uFFFD(b\uFFFD");
  std::string word(200'000, 'q');
  CHECK(t->decode(t->encode(word, false, true)) == word);
  std::string spaces(200'000, ' ');
  CHECK(t->decode(t->encode(spaces, false, true)) == spaces);
}

TEST_CASE("text streams never cut a character", "[tokenizer]") {
  std::string text = "a\u00e9\u20ac\U0001F600z";
  Utf8Stream stream;
  std::string got;
  for (char c : text) {
    std::string piece = stream.push(std::string_view(&c, 1));
    CHECK(is_valid_utf8(piece));
    got += piece;
  }
  CHECK(got == text);
  CHECK(stream.push("\xe2\x82").empty());
  CHECK(stream.finish() == "\uFFFD");
  CHECK(stream.push("\xed\xa0\x80|\xf5") ==
        "\uFFFD\uFFFD\uFFFD|\uFFFD");  // a surrogate, and beyond U+10FFFF
}

TEST_CASE("what cannot be read is refused by name", "[tokenizer]") {
  CHECK(Tokenizer::open("/nonexistent/model.gguf").error().code == ErrorCode::kNotFound);
  CHECK(split_patterns_of("tekken").error().code == ErrorCode::kUnsupported);
  char folder[] = "/tmp/bp-text-XXXXXX";
  REQUIRE(::mkdtemp(folder));
  auto with = [&](const std::string& json) {
    std::ofstream(std::string(folder) + "/tokenizer.json") << json;
    auto t = Tokenizer::open(folder);
    REQUIRE(!t.ok());
    return t.error();
  };
  CHECK(with("{").code == ErrorCode::kCorruptData);
  CHECK(with("{}").code == ErrorCode::kCorruptData);
  CHECK(with(R"({"model":{"type":"WordPiece"}})").code == ErrorCode::kUnsupported);
  CHECK(with(R"({"model":{"type":"BPE","vocab":{"a":7},"merges":[]}})").code ==
        ErrorCode::kCorruptData);
  CHECK(with(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a"]}})").code ==
        ErrorCode::kCorruptData);
  CHECK(
      with(
          R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Magic"}})")
          .message.find("Magic") != std::string::npos);
  CHECK(with(R"({"normalizer":{"type":"NFC"},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})")
            .code == ErrorCode::kUnsupported);
  std::string deep(100, '[');
  CHECK(with("{\"model\":" + deep).code == ErrorCode::kCorruptData);
  (void)remove_tree(folder);
}

}  // namespace bp::rt
