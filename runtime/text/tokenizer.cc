#include "runtime/text/tokenizer.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <unordered_map>

#include "runtime/text/chat_template.h"
#include "runtime/text/merger.h"
#include "runtime/text/regex_splitter.h"
#include "runtime/text/utf8.h"
#include "runtime/text/vocab.h"

namespace bp::rt {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581, SentencePiece's space

/// Finds the longest of a set of texts at any place, by first byte and length.
class LiteralFinder {
 public:
  void add(std::string text, uint32_t token) {
    if (!text.empty())
      by_first_[static_cast<unsigned char>(text[0])].emplace_back(std::move(text), token);
  }
  void seal() {
    for (auto& list : by_first_) {
      std::stable_sort(list.begin(), list.end(),
                       [](auto& a, auto& b) { return a.first.size() > b.first.size(); });
    }
  }
  /// The literal that starts at text[at], or nullptr.
  const std::pair<std::string, uint32_t>* match(std::string_view text, size_t at) const {
    for (const auto& literal : by_first_[static_cast<unsigned char>(text[at])]) {
      if (text.compare(at, literal.first.size(), literal.first) == 0) return &literal;
    }
    return nullptr;
  }

 private:
  std::array<std::vector<std::pair<std::string, uint32_t>>, 256> by_first_;
};

class BpeTokenizer final : public Tokenizer {
 public:
  static Result<std::unique_ptr<Tokenizer>> make(Vocab vocab) {
    auto t = std::make_unique<BpeTokenizer>();
    for (const std::string& pattern : vocab.split_patterns) {
      BP_ASSIGN(auto splitter, RegexSplitter::compile(pattern));
      t->splitters_.push_back(std::move(splitter));
    }
    if (!vocab.chat_template.empty()) {
      auto text = [&](int64_t id) {
        return id < 0 ? std::string() : vocab.entries[static_cast<size_t>(id)].bytes;
      };
      BP_ASSIGN(t->chat_,
                ChatTemplate::parse(vocab.chat_template, {text(vocab.bos), text(vocab.eos)}));
    }
    t->vocab_ = std::move(vocab);
    t->index();
    return std::unique_ptr<Tokenizer>(std::move(t));
  }

  std::vector<uint32_t> encode(std::string_view text, bool add_special,
                               bool parse_special) const override {
    std::vector<uint32_t> out;
    if (add_special && vocab_.add_bos) out.push_back(static_cast<uint32_t>(vocab_.bos));
    std::string repaired;
    if (!is_valid_utf8(text)) {
      repaired = valid_utf8(text);
      text = repaired;
    }
    bool first = true;
    size_t from = 0;
    const LiteralFinder& literals = parse_special ? all_literals_ : user_literals_;
    for (size_t at = 0; at < text.size();) {
      const auto* literal = literals.match(text, at);
      if (!literal) {
        ++at;
        continue;
      }
      plain(text.substr(from, at - from), first, out);
      first = vocab_.model ==
              Vocab::Model::kScores;  // SentencePiece: a space again behind a special token
      out.push_back(literal->second);
      at += literal->first.size();
      from = at;
    }
    plain(text.substr(from), first, out);
    if (add_special && vocab_.add_eos) out.push_back(static_cast<uint32_t>(vocab_.eos));
    return out;
  }

  std::string token_bytes(uint32_t token, bool special) const override {
    if (token >= vocab_.entries.size()) return {};
    const VocabEntry& e = vocab_.entries[token];
    if (e.type == TokenType::kControl || e.type == TokenType::kUnused)
      return special ? e.bytes : std::string();
    if (e.type == TokenType::kByte)
      return std::string(1, static_cast<char>(std::strtol(e.bytes.c_str() + 3, nullptr, 16)));
    if (vocab_.model == Vocab::Model::kByteBpe) return e.bytes;
    std::string out;
    for (size_t i = 0; i < e.bytes.size();) {
      bool space = e.bytes.compare(i, kSpaceMark.size(), kSpaceMark) == 0;
      out += space ? ' ' : e.bytes[i];
      i += space ? kSpaceMark.size() : 1;
    }
    return out;
  }

  std::string decode(const std::vector<uint32_t>& tokens, bool special) const override {
    std::string bytes;
    for (uint32_t t : tokens) bytes += token_bytes(t, special);
    if (vocab_.model == Vocab::Model::kScores && vocab_.add_space_prefix &&
        bytes.rfind(' ', 0) == 0)
      bytes.erase(0, 1);
    return valid_utf8(bytes);
  }

  uint32_t vocab_size() const override { return static_cast<uint32_t>(vocab_.entries.size()); }
  const std::vector<uint32_t>& eos_tokens() const override { return vocab_.stop_tokens; }
  size_t longest_token_bytes() const override { return longest_; }

  Result<std::string> apply_chat_template(const std::vector<ChatMessage>& messages,
                                          bool add_generation_prompt) const override {
    if (!chat_)
      return Error{ErrorCode::kUnsupported, "the model has no chat template",
                   "Use /v1/completions"};
    return chat_->render(messages, add_generation_prompt);
  }

 private:
  void index() {
    ids_.reserve(vocab_.entries.size());
    for (uint32_t id = 0; id < vocab_.entries.size(); ++id) {
      const VocabEntry& e = vocab_.entries[id];
      longest_ = std::max(longest_, e.bytes.size());
      if (e.type == TokenType::kControl || e.type == TokenType::kUserDefined) {
        all_literals_.add(e.bytes, id);
        if (e.type == TokenType::kUserDefined) user_literals_.add(e.bytes, id);
      } else if (e.type == TokenType::kByte) {
        byte_tokens_[static_cast<size_t>(std::strtol(e.bytes.c_str() + 3, nullptr, 16)) & 255] = id;
      } else if (e.type == TokenType::kNormal) {
        ids_.emplace(e.bytes, id);
      }
    }
    all_literals_.seal();
    user_literals_.seal();
    if (vocab_.model != Vocab::Model::kByteBpe) return;
    for (int b = 0; b < 256; ++b)
      byte_tokens_[static_cast<size_t>(b)] = id_of(std::string(1, static_cast<char>(b)));
    merges_.reserve(vocab_.merges.size());
    for (size_t rank = 0; rank < vocab_.merges.size(); ++rank) {
      const auto& [left, right] = vocab_.merges[rank];
      int64_t l = id_of(left), r = id_of(right), both = id_of(left + right);
      if (l < 0 || r < 0 || both < 0)
        continue;  // a merge of tokens that the vocabulary lacks cannot happen
      merges_.emplace(pair_key(l, r), Merge{static_cast<int64_t>(rank), both});
    }
    vocab_.merges.clear();
    vocab_.merges.shrink_to_fit();
  }

  int64_t id_of(const std::string& bytes) const {
    auto found = ids_.find(bytes);
    return found == ids_.end() ? -1 : found->second;
  }
  static uint64_t pair_key(int64_t left, int64_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
  }

  /// Text without special tokens; `first`: nothing came before it.
  void plain(std::string_view text, bool first, std::vector<uint32_t>& out) const {
    if (text.empty()) return;
    std::string prefixed;
    if (first && vocab_.add_space_prefix &&
        (text[0] != ' ' || vocab_.model == Vocab::Model::kScores)) {
      prefixed = " " + std::string(text);
      text = prefixed;
    }
    if (vocab_.model == Vocab::Model::kScores) return by_scores(text, out);
    std::vector<std::string_view> pieces{text}, finer;
    for (const auto& splitter : splitters_) {
      finer.clear();
      for (std::string_view piece : pieces) splitter->split(piece, finer);
      pieces.swap(finer);
    }
    for (std::string_view piece : pieces) by_rank(piece, out);
  }

  void by_rank(std::string_view piece, std::vector<uint32_t>& out) const {
    if (vocab_.ignore_merges) {
      int64_t whole = id_of(std::string(piece));
      if (whole >= 0) return out.push_back(static_cast<uint32_t>(whole));
    }
    std::vector<Symbol> symbols;
    symbols.reserve(piece.size());
    for (uint32_t i = 0; i < piece.size(); ++i) {
      int64_t token = byte_tokens_[static_cast<unsigned char>(piece[i])];
      if (token >= 0)
        symbols.push_back({i, 1, token});  // a byte without a token is dropped, as elsewhere
    }
    auto lookup = [this](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
      auto found = merges_.find(pair_key(left.token, right.token));
      if (found == merges_.end()) return std::nullopt;
      return found->second;
    };
    for (const Symbol& s : merge_symbols(std::move(symbols), lookup))
      out.push_back(static_cast<uint32_t>(s.token));
  }

  void by_scores(std::string_view text, std::vector<uint32_t>& out) const {
    std::string marked;
    for (char c : text) {
      if (c == ' ')
        marked += kSpaceMark;
      else
        marked += c;
    }
    std::vector<Symbol> symbols;
    for (uint32_t i = 0; i < marked.size();) {
      uint32_t end = i + 1;
      while (end < marked.size() && (static_cast<unsigned char>(marked[end]) & 0xc0) == 0x80) ++end;
      symbols.push_back({i, end - i, id_of(marked.substr(i, end - i))});
      i = end;
    }
    auto lookup = [&](const Symbol& left, const Symbol& right) -> std::optional<Merge> {
      if (left.size + right.size > longest_) return std::nullopt;
      int64_t token = id_of(marked.substr(left.from, left.size + right.size));
      if (token < 0) return std::nullopt;
      // Scores are floats: their order as integers, the highest first.
      return Merge{-ordered_bits(vocab_.entries[static_cast<size_t>(token)].score), token};
    };
    for (const Symbol& s : merge_symbols(std::move(symbols), lookup)) {
      if (s.token >= 0) {
        out.push_back(static_cast<uint32_t>(s.token));
        continue;
      }
      for (uint32_t i = s.from; i < s.from + s.size; ++i) {
        int64_t token = byte_tokens_[static_cast<unsigned char>(marked[i])];
        if (token >= 0) out.push_back(static_cast<uint32_t>(token));
      }
    }
  }
  static int64_t ordered_bits(float f) {
    int32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits < 0 ? -static_cast<int64_t>(bits & 0x7fffffff) : bits;
  }

  Vocab vocab_;
  std::unordered_map<std::string, int64_t> ids_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<int64_t, 256> byte_tokens_ = [] {
    std::array<int64_t, 256> a;
    a.fill(-1);
    return a;
  }();
  LiteralFinder all_literals_, user_literals_;
  std::vector<std::unique_ptr<RegexSplitter>> splitters_;
  std::unique_ptr<ChatTemplate> chat_;
  size_t longest_ = 0;
};

/// The GGUF file of a folder without tokenizer.json; empty when tokenizer.json is there.
Result<std::string> gguf_in_folder(const std::string& folder) {
  struct stat st {};
  if (::stat((folder + "/tokenizer.json").c_str(), &st) == 0) return std::string();
  std::vector<std::string> found;
  std::error_code ec;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ec)) {
    if (entry.path().extension() == ".gguf") found.push_back(entry.path().string());
  }
  if (found.size() == 1) return found[0];
  return Error{ErrorCode::kNotFound,
               fmt::format("{}: found {} .gguf files and no tokenizer.json, expected one of them",
                           folder, found.size()),
               {}};
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::open(const std::string& path) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return errno_error(path, errno);
  BP_ASSIGN(std::string file,
            S_ISDIR(st.st_mode) ? gguf_in_folder(path) : Result<std::string>(path));
  BP_ASSIGN(Vocab vocab, file.empty() ? vocab_from_json(path) : vocab_from_gguf(file));
  auto tokenizer = BpeTokenizer::make(std::move(vocab));
  if (!tokenizer.ok()) return std::move(tokenizer).error().with_context(path);
  return tokenizer;
}

}  // namespace bp::rt
