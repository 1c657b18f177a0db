// ExprParser: recursive descent over Jinja's expressions; precedence as in jinja2/parser.py. The
// parser of statements (jinja_parser.cc) stands on it. Throws Failure with the line.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/jinja_ast.h"

namespace bp::rt::jinja {

class ExprParser {
 protected:
  static constexpr int kDepthMax = 256;

  explicit ExprParser(const std::vector<Token>& tokens) : tokens_(tokens) {}

  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is_op(std::string_view op, size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::kOperator && peek(ahead).text == op;
  }
  bool is_name(std::string_view name, size_t ahead = 0) const {
    return peek(ahead).kind == TokenKind::kName && peek(ahead).text == name;
  }
  bool take_op(std::string_view op) { return is_op(op) ? (take(), true) : false; }
  bool take_name(std::string_view name) { return is_name(name) ? (take(), true) : false; }
  [[noreturn]] void fail(const std::string& what) const {
    const Token& t = peek();
    throw Failure(fmt::format("line {}: {}{}", t.line, what,
                              t.text.empty() ? "" : fmt::format(" at '{}'", t.text.substr(0, 40))));
  }
  void expect_op(std::string_view op) {
    if (!take_op(op)) fail(fmt::format("expected '{}'", op));
  }
  void expect_name(std::string_view n) {
    if (!take_name(n)) fail(fmt::format("expected '{}'", n));
  }
  void expect(TokenKind kind, const char* what) {
    if (peek().kind != kind) fail(fmt::format("expected {}", what));
    take();
  }
  std::string name() {
    if (peek().kind != TokenKind::kName) fail("expected a name");
    return take().text;
  }
  ExprPtr node(ExprKind kind, std::string text = {}) const {
    auto e = std::make_unique<Expr>();
    e->kind = kind;
    e->line = peek().line;
    e->text = std::move(text);
    return e;
  }
  struct Depth {
    explicit Depth(ExprParser& p) : parser(p) {
      if (++parser.depth_ > kDepthMax) parser.fail("nested too deeply");
    }
    ~Depth() { --parser.depth_; }
    ExprParser& parser;
  };

  /// a, b, c without brackets is a tuple, which is a list here.
  ExprPtr tuple(bool with_condition = true);
  ExprPtr expression();
  ExprPtr binary(std::string op, ExprPtr left, ExprPtr right);
  ExprPtr or_expr();
  ExprPtr and_expr();
  ExprPtr not_expr();
  std::string compare_op();
  ExprPtr compare_expr();
  ExprPtr sum_expr();
  ExprPtr concat_expr();
  ExprPtr product_expr();
  ExprPtr power_expr();
  ExprPtr unary_expr(bool with_filter);
  ExprPtr postfix(ExprPtr e);
  ExprPtr subscript(ExprPtr object);
  void call_args(Expr& call);
  ExprPtr filter_chain(ExprPtr input, std::string filter);
  ExprPtr filters(ExprPtr e);
  void test_args(Expr& test);
  ExprPtr primary();
  ExprPtr name_or_constant(ExprPtr e);

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace bp::rt::jinja
