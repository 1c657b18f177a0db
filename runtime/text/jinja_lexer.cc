#include <fmt/format.h>

#include <array>
#include <cctype>

#include "runtime/text/jinja_ast.h"

namespace bp::rt::jinja {
namespace {

class Lexer {
 public:
  explicit Lexer(std::string source) : src_(std::move(source)) {}

  std::vector<Token> run() {
    while (pos_ < src_.size()) text();
    tokens_.push_back({TokenKind::kEof, "", line_});
    return std::move(tokens_);
  }

 private:
  bool at(std::string_view s) const { return src_.compare(pos_, s.size(), s) == 0; }
  void advance(size_t n) {
    for (size_t i = 0; i < n && pos_ < src_.size(); ++i) line_ += src_[pos_++] == '\n';
  }
  void push(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  /// Plain text up to the next tag, then that tag.
  void text() {
    size_t open = pos_;
    for (;; ++open) {
      open = src_.find('{', open);
      if (open == std::string::npos || open + 1 >= src_.size()) {
        open = src_.size();
        break;
      }
      if (src_[open + 1] == '{' || src_[open + 1] == '%' || src_[open + 1] == '#') break;
    }
    std::string chunk = src_.substr(pos_, open - pos_);
    if (open < src_.size()) {
      char kind = src_[open + 1];
      char sign = open + 2 < src_.size() ? src_[open + 2] : ' ';
      if (sign == '-') {
        chunk.erase(chunk.find_last_not_of(" \t\r\n\v\f") + 1);
      } else if (kind != '{' && sign != '+') {
        strip_line_start(chunk);
      }
    }
    if (!chunk.empty()) push(TokenKind::kText, chunk);
    advance(open - pos_);
    if (pos_ < src_.size()) tag();
  }

  /// lstrip_blocks: blanks between the start of the line and a block tag go away.
  void strip_line_start(std::string& chunk) {
    size_t keep = chunk.find_last_not_of(" \t");
    bool line_start =
        keep == std::string::npos ? pos_ == 0 || src_[pos_ - 1] == '\n' : chunk[keep] == '\n';
    if (line_start) chunk.erase(keep == std::string::npos ? 0 : keep + 1);
  }

  void after_tag(bool strip, bool trim_newline) {
    if (strip) {
      while (pos_ < src_.size() && std::isspace(static_cast<unsigned char>(src_[pos_]))) advance(1);
    } else if (trim_newline && pos_ < src_.size() && src_[pos_] == '\n') {
      advance(1);
    }
  }

  void tag() {
    char kind = src_[pos_ + 1];
    int start_line = line_;
    if (kind == '#') {
      size_t end = src_.find("#}", pos_ + 2);
      if (end == std::string::npos)
        throw Failure(fmt::format("line {}: comment is not closed", start_line));
      bool strip = src_[end - 1] == '-', keep = src_[end - 1] == '+';
      advance(end + 2 - pos_);
      after_tag(strip, !keep);
      return;
    }
    bool block = kind == '%';
    advance(2);
    if (pos_ < src_.size() && (src_[pos_] == '-' || src_[pos_] == '+')) advance(1);
    push(block ? TokenKind::kBegin : TokenKind::kPrint, "");
    std::string_view close = block ? "%}" : "}}";
    int nesting = 0;
    for (;;) {
      while (pos_ < src_.size() && std::isspace(static_cast<unsigned char>(src_[pos_]))) advance(1);
      if (pos_ >= src_.size()) throw Failure(fmt::format("line {}: tag is not closed", start_line));
      if (nesting == 0) {
        bool strip = src_[pos_] == '-' && src_.compare(pos_ + 1, 2, close) == 0;
        bool keep = src_[pos_] == '+' && src_.compare(pos_ + 1, 2, close) == 0;
        if (strip || keep || at(close)) {
          advance(strip || keep ? 3 : 2);
          push(block ? TokenKind::kEnd : TokenKind::kPrintEnd, "");
          after_tag(strip, block && !keep);
          return;
        }
      }
      char c = src_[pos_];
      if (c == '(' || c == '[' || c == '{') ++nesting;
      if (c == ')' || c == ']' || c == '}') --nesting;
      token();
    }
  }

  void token() {
    unsigned char c = static_cast<unsigned char>(src_[pos_]);
    if (std::isalpha(c) || c == '_') {
      size_t end = pos_;
      while (end < src_.size() &&
             (std::isalnum(static_cast<unsigned char>(src_[end])) || src_[end] == '_'))
        ++end;
      push(TokenKind::kName, src_.substr(pos_, end - pos_));
      advance(end - pos_);
    } else if (std::isdigit(c)) {
      number();
    } else if (c == '"' || c == '\'') {
      string(static_cast<char>(c));
    } else {
      static constexpr std::array<std::string_view, 25> kOperators = {
          "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
          ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ",", ":", ".", "|"};
      for (std::string_view op : kOperators) {
        if (at(op)) {
          push(TokenKind::kOperator, std::string(op));
          advance(op.size());
          return;
        }
      }
      throw Failure(fmt::format("line {}: unexpected character '{}'", line_, static_cast<char>(c)));
    }
  }

  void number() {
    size_t end = pos_;
    bool is_float = false;  // an exponent has no sign here
    while (end < src_.size()) {
      char c = src_[end];
      bool digit_next =
          end + 1 < src_.size() && std::isdigit(static_cast<unsigned char>(src_[end + 1]));
      if (c == '.' && !is_float && digit_next)
        is_float = true;
      else if ((c == 'e' || c == 'E') && digit_next)
        is_float = true;
      else if (!std::isdigit(static_cast<unsigned char>(c)) && c != '_')
        break;
      ++end;
    }
    std::string digits;
    for (size_t i = pos_; i < end; ++i) {
      if (src_[i] != '_') digits += src_[i];
    }
    if (digits.size() > 18)
      throw Failure(fmt::format("line {}: number of more than 18 digits", line_));
    push(is_float ? TokenKind::kFloat : TokenKind::kInteger, digits);
    advance(end - pos_);
  }

  static void append_utf8(std::string& out, uint32_t cp) {
    if (cp < 0x80)
      out += static_cast<char>(cp);
    else if (cp < 0x800)
      out += {static_cast<char>(0xc0 | cp >> 6), static_cast<char>(0x80 | (cp & 63))};
    else if (cp < 0x10000) {
      out += {static_cast<char>(0xe0 | cp >> 12), static_cast<char>(0x80 | (cp >> 6 & 63)),
              static_cast<char>(0x80 | (cp & 63))};
    } else {
      out += {static_cast<char>(0xf0 | cp >> 18), static_cast<char>(0x80 | (cp >> 12 & 63)),
              static_cast<char>(0x80 | (cp >> 6 & 63)), static_cast<char>(0x80 | (cp & 63))};
    }
  }

  void escape(std::string& out) {  // at the character behind the backslash
    char c = src_[pos_];
    size_t hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (hex) {
      uint32_t cp = 0;
      if (pos_ + hex >= src_.size())
        throw Failure(fmt::format("line {}: escape is cut off", line_));
      for (size_t i = 1; i <= hex; ++i) {
        char h = src_[pos_ + i];
        if (!std::isxdigit(static_cast<unsigned char>(h)))
          throw Failure(fmt::format("line {}: bad escape", line_));
        cp = cp << 4 | static_cast<uint32_t>(h <= '9' ? h - '0' : (h | 32) - 'a' + 10);
      }
      if (cp > 0x10ffff) throw Failure(fmt::format("line {}: bad escape", line_));
      append_utf8(out, cp);
      advance(hex + 1);
      return;
    }
    static constexpr std::string_view kFrom = "ntrbfva0\\'\"",
                                      kTo = std::string_view("\n\t\r\b\f\v\a\0\\'\"", 11);
    size_t which = kFrom.find(c);
    if (c == '\n') {
    } else if (which != std::string_view::npos) {
      out += kTo[which];
    } else {
      out += '\\', out += c;
    }
    advance(1);
  }

  void string(char quote) {
    int start_line = line_;
    std::string out;
    advance(1);
    while (pos_ < src_.size() && src_[pos_] != quote) {
      if (src_[pos_] == '\\' && pos_ + 1 < src_.size()) {
        advance(1);
        escape(out);
      } else {
        out += src_[pos_];
        advance(1);
      }
    }
    if (pos_ >= src_.size())
      throw Failure(fmt::format("line {}: string is not closed", start_line));
    advance(1);
    push(TokenKind::kString, std::move(out));
  }

  std::string src_;
  size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view source) {
  std::string text;  // newlines as \n; one newline at the very end is dropped, as Jinja does
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return Lexer(std::move(text)).run();
}

}  // namespace bp::rt::jinja
