// Statements of Jinja's grammar.
#include "runtime/text/jinja_expr_parser.h"

namespace bp::rt::jinja {
namespace {

class Parser : ExprParser {
 public:
  explicit Parser(const std::vector<Token>& tokens) : ExprParser(tokens) {}

  Block template_body() {
    Block block = statements({});
    if (peek().kind != TokenKind::kEof) fail("unexpected end tag");
    return block;
  }

 private:
  bool at_end(const std::vector<std::string_view>& ends) const {
    return peek().kind == TokenKind::kBegin && peek(1).kind == TokenKind::kName &&
           std::find(ends.begin(), ends.end(), peek(1).text) != ends.end();
  }
  Block statements(const std::vector<std::string_view>& ends) {
    Depth depth(*this);
    Block block;
    while (peek().kind != TokenKind::kEof && !at_end(ends)) block.push_back(statement());
    return block;
  }
  std::unique_ptr<Stmt> statement() {
    auto s = std::make_unique<Stmt>();
    s->line = peek().line;
    if (peek().kind == TokenKind::kText) {
      s->kind = StmtKind::kText;
      s->text = take().text;
    } else if (peek().kind == TokenKind::kPrint) {
      take();
      s->kind = StmtKind::kOutput;
      s->expr = tuple();
      expect(TokenKind::kPrintEnd, "'}}'");
    } else {
      expect(TokenKind::kBegin, "'{%'");
      tag(*s);
    }
    return s;
  }
  void close_tag() { expect(TokenKind::kEnd, "'%}'"); }
  Block body_until(const std::vector<std::string_view>& ends, std::string_view close) {
    Block block = statements(ends);
    if (!at_end(ends)) fail(fmt::format("expected '{{% {} %}}'", close));
    return block;
  }
  void end_tag(std::string_view n) {
    take();  // {%
    expect_name(n);
    close_tag();
  }
  void tag(Stmt& s) {
    std::string keyword = name();
    if (keyword == "for") return for_tag(s);
    if (keyword == "if") return if_tag(s);
    if (keyword == "set") return set_tag(s);
    if (keyword == "macro") return macro_tag(s);
    if (keyword == "break" || keyword == "continue") {
      s.kind = keyword == "break" ? StmtKind::kBreak : StmtKind::kContinue;
      return close_tag();
    }
    if (keyword == "generation") {
      s.kind = StmtKind::kScope;
      close_tag();
      s.body = body_until({"endgeneration"}, "endgeneration");
      return end_tag("endgeneration");
    }
    if (keyword == "filter") {
      s.kind = StmtKind::kSetBlock;  // without a name: printed
      s.expr = filter_chain(nullptr, name());
      close_tag();
      s.body = body_until({"endfilter"}, "endfilter");
      return end_tag("endfilter");
    }
    throw Failure(
        fmt::format("line {}: tag '{}' is not known (for, if, set, macro, filter, break, continue, "
                    "generation are)",
                    s.line, keyword));
  }
  void for_tag(Stmt& s) {
    s.kind = StmtKind::kFor;
    s.names = targets();
    expect_name("in");
    s.expr = tuple(/*with_condition=*/false);
    if (take_name("if")) s.condition = expression();
    take_name("recursive");
    close_tag();
    s.body = body_until({"else", "endfor"}, "endfor");
    if (is_name("else", 1)) {
      end_tag("else");
      s.orelse = body_until({"endfor"}, "endfor");
    }
    end_tag("endfor");
  }
  void if_tag(Stmt& s) {
    Depth depth(*this);
    s.kind = StmtKind::kIf;
    s.expr = tuple();
    close_tag();
    s.body = body_until({"elif", "else", "endif"}, "endif");
    if (is_name("elif", 1)) {
      take(), take();
      auto inner = std::make_unique<Stmt>();
      inner->line = peek().line;
      if_tag(*inner);  // consumes the endif
      s.orelse.push_back(std::move(inner));
      return;
    }
    if (is_name("else", 1)) {
      end_tag("else");
      s.orelse = body_until({"endif"}, "endif");
    }
    end_tag("endif");
  }
  void set_tag(Stmt& s) {
    s.names = targets();
    if (s.names.size() == 1 && take_op(".")) s.text = name();
    if (take_op("=")) {
      s.kind = StmtKind::kSet;
      s.expr = tuple();
      return close_tag();
    }
    s.kind = StmtKind::kSetBlock;
    if (take_op("|")) s.expr = filter_chain(nullptr, name());
    close_tag();
    s.body = body_until({"endset"}, "endset");
    end_tag("endset");
  }
  void macro_tag(Stmt& s) {
    s.kind = StmtKind::kMacro;
    s.text = name();
    expect_op("(");
    while (!is_op(")")) {
      s.names.push_back(name());
      if (take_op("="))
        s.defaults.push_back(expression());
      else if (!s.defaults.empty())
        fail("a parameter without default after one with a default");
      if (!take_op(",")) break;
    }
    expect_op(")");
    close_tag();
    s.body = body_until({"endmacro"}, "endmacro");
    end_tag("endmacro");
  }
  std::vector<std::string> targets() {
    bool paren = take_op("(");
    std::vector<std::string> out{name()};
    while (take_op(",")) out.push_back(name());
    if (paren) expect_op(")");
    return out;
  }
};

}  // namespace

Block parse_tokens(const std::vector<Token>& tokens) { return Parser(tokens).template_body(); }

}  // namespace bp::rt::jinja
