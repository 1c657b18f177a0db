// Recursive descent over Jinja's grammar; precedence as in jinja2/parser.py.
#include <fmt/format.h>

#include <algorithm>

#include "runtime/text/jinja_ast.h"

namespace bp::rt::jinja {
namespace {

constexpr int kDepthMax = 256;

class Parser {
 public:
  explicit Parser(const std::vector<Token>& tokens) : tokens_(tokens) {}

  Block template_body() {
    Block block = statements({});
    if (peek().kind != TokenKind::kEof) fail("unexpected end tag");
    return block;
  }

 private:
  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
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
    throw Failure(fmt::format("line {}: {}{}", t.line, what, t.text.empty() ? "" : fmt::format(" at '{}'", t.text.substr(0, 40))));
  }
  void expect_op(std::string_view op) { if (!take_op(op)) fail(fmt::format("expected '{}'", op)); }
  void expect_name(std::string_view n) { if (!take_name(n)) fail(fmt::format("expected '{}'", n)); }
  void expect(TokenKind kind, const char* what) { if (peek().kind != kind) fail(fmt::format("expected {}", what)); take(); }
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
    explicit Depth(Parser& p) : parser(p) { if (++parser.depth_ > kDepthMax) parser.fail("nested too deeply"); }
    ~Depth() { --parser.depth_; }
    Parser& parser;
  };

  // ---- statements
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
    throw Failure(fmt::format("line {}: tag '{}' is not known (for, if, set, macro, filter, break, continue, "
                              "generation are)", s.line, keyword));
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
      if (take_op("=")) s.defaults.push_back(expression());
      else if (!s.defaults.empty()) fail("a parameter without default after one with a default");
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

  // ---- expressions
  /// a, b, c without brackets is a tuple, which is a list here.
  ExprPtr tuple(bool with_condition = true) {
    ExprPtr first = with_condition ? expression() : or_expr();
    if (!is_op(",")) return first;
    auto list = node(ExprKind::kList);
    list->args.push_back(std::move(first));
    while (take_op(",")) {
      if (peek().kind == TokenKind::kEnd || peek().kind == TokenKind::kPrintEnd || is_op(")")) break;
      list->args.push_back(with_condition ? expression() : or_expr());
    }
    return list;
  }
  ExprPtr expression() {
    Depth depth(*this);
    ExprPtr value = or_expr();
    while (is_name("if")) {
      auto cond = node(ExprKind::kCond);
      take();
      cond->args.push_back(std::move(value));
      cond->args.push_back(or_expr());
      cond->args.push_back(take_name("else") ? expression() : nullptr);
      value = std::move(cond);
    }
    return value;
  }
  ExprPtr binary(std::string op, ExprPtr left, ExprPtr right) {
    auto e = node(ExprKind::kBinary, std::move(op));
    e->args.push_back(std::move(left));
    e->args.push_back(std::move(right));
    return e;
  }
  ExprPtr or_expr() {
    ExprPtr left = and_expr();
    while (take_name("or")) left = binary("or", std::move(left), and_expr());
    return left;
  }
  ExprPtr and_expr() {
    ExprPtr left = not_expr();
    while (take_name("and")) left = binary("and", std::move(left), not_expr());
    return left;
  }
  ExprPtr not_expr() {
    Depth depth(*this);
    if (!is_name("not")) return compare_expr();
    auto e = node(ExprKind::kUnary, take().text);
    e->args.push_back(not_expr());
    return e;
  }
  std::string compare_op() {
    static constexpr std::string_view kOps[] = {"==", "!=", "<=", ">=", "<", ">"};
    for (std::string_view op : kOps) {
      if (take_op(op)) return std::string(op);
    }
    if (take_name("in")) return "in";
    if (is_name("not") && is_name("in", 1)) {
      take(), take();
      return "not in";
    }
    return "";
  }
  ExprPtr compare_expr() {
    ExprPtr left = sum_expr();
    std::string op = compare_op();
    if (op.empty()) return left;
    auto e = node(ExprKind::kCompare);
    e->args.push_back(std::move(left));
    for (; !op.empty(); op = compare_op()) {
      e->ops.push_back(op);
      e->args.push_back(sum_expr());
    }
    return e;
  }
  ExprPtr sum_expr() {
    ExprPtr left = concat_expr();
    while (is_op("+") || is_op("-")) {
      std::string op = take().text;
      left = binary(op, std::move(left), concat_expr());
    }
    return left;
  }
  ExprPtr concat_expr() {
    ExprPtr left = product_expr();
    while (take_op("~")) left = binary("~", std::move(left), product_expr());
    return left;
  }
  ExprPtr product_expr() {
    ExprPtr left = power_expr();
    while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
      std::string op = take().text;
      left = binary(op, std::move(left), power_expr());
    }
    return left;
  }
  ExprPtr power_expr() {
    ExprPtr left = unary_expr(true);
    while (take_op("**")) left = binary("**", std::move(left), unary_expr(true));
    return left;
  }
  ExprPtr unary_expr(bool with_filter) {
    Depth depth(*this);
    ExprPtr e;
    if (is_op("-") || is_op("+")) {
      e = node(ExprKind::kUnary, take().text);
      e->args.push_back(unary_expr(false));
    } else {
      e = postfix(primary());
    }
    return with_filter ? filters(std::move(e)) : std::move(e);
  }
  ExprPtr postfix(ExprPtr e) {
    for (;;) {
      if (take_op(".")) {
        if (peek().kind == TokenKind::kInteger) {
          auto item = node(ExprKind::kItem);
          auto index = node(ExprKind::kLiteral);
          index->value = Value::of(static_cast<int64_t>(std::stoll(take().text)));
          item->args.push_back(std::move(e));
          item->args.push_back(std::move(index));
          e = std::move(item);
          continue;
        }
        auto attr = node(ExprKind::kAttr);
        attr->text = name();
        attr->args.push_back(std::move(e));
        e = std::move(attr);
      } else if (is_op("[")) {
        e = subscript(std::move(e));
      } else if (is_op("(")) {
        auto call = node(ExprKind::kCall);
        call->args.push_back(std::move(e));
        call_args(*call);
        e = std::move(call);
      } else {
        return e;
      }
    }
  }
  ExprPtr subscript(ExprPtr object) {
    expect_op("[");
    std::vector<ExprPtr> parts(1);
    if (!is_op(":")) parts[0] = tuple();
    bool slice = false;
    while (take_op(":")) {
      slice = true;
      parts.push_back(is_op(":") || is_op("]") ? nullptr : expression());
    }
    expect_op("]");
    if (parts.size() > 3) fail("a slice has at most three parts");
    auto e = node(slice ? ExprKind::kSlice : ExprKind::kItem);
    e->args.push_back(std::move(object));
    for (auto& p : parts) e->args.push_back(std::move(p));
    if (slice) e->args.resize(4);
    return e;
  }
  void call_args(Expr& call) {
    Depth depth(*this);
    expect_op("(");
    while (!is_op(")")) {
      if (peek().kind == TokenKind::kName && is_op("=", 1)) {
        std::string key = name();
        take();
        call.named.emplace_back(std::move(key), expression());
      } else {
        call.args.push_back(expression());
      }
      if (!take_op(",")) break;
    }
    expect_op(")");
  }
  ExprPtr filter_chain(ExprPtr input, std::string filter) {
    for (;;) {
      auto e = node(ExprKind::kFilter, std::move(filter));
      e->args.push_back(std::move(input));
      if (is_op("(")) call_args(*e);
      input = std::move(e);
      if (!take_op("|")) return input;
      filter = name();
    }
  }
  ExprPtr filters(ExprPtr e) {
    for (;;) {
      if (take_op("|")) {
        e = filter_chain(std::move(e), name());
      } else if (is_name("is")) {
        take();
        bool negated = take_name("not");
        auto test = node(ExprKind::kTest, name());
        test->args.push_back(std::move(e));
        test_args(*test);
        e = std::move(test);
        if (negated) {
          auto no = node(ExprKind::kUnary, "not");
          no->args.push_back(std::move(e));
          e = std::move(no);
        }
      } else if (is_op("(")) {  // a filter's result may be called
        auto call = node(ExprKind::kCall);
        call->args.push_back(std::move(e));
        call_args(*call);
        e = std::move(call);
      } else {
        return e;
      }
    }
  }
  void test_args(Expr& test) {
    if (is_op("(")) return call_args(test);
    const Token& t = peek();
    bool operand = t.kind == TokenKind::kString || t.kind == TokenKind::kInteger || t.kind == TokenKind::kFloat ||
                   is_op("[") || is_op("{") ||
                   (t.kind == TokenKind::kName && t.text != "else" && t.text != "or" && t.text != "and" &&
                    t.text != "is" && t.text != "if" && t.text != "in" && t.text != "not" && t.text != "recursive");
    if (operand) test.args.push_back(postfix(primary()));
  }
  ExprPtr primary() {
    Depth depth(*this);
    const Token& t = peek();
    auto e = node(ExprKind::kLiteral);
    switch (t.kind) {
      case TokenKind::kString: {
        std::string text = take().text;
        while (peek().kind == TokenKind::kString) text += take().text;  // "a" "b"
        e->value = Value::of(std::move(text));
        return e;
      }
      case TokenKind::kInteger: e->value = Value::of(static_cast<int64_t>(std::stoll(take().text))); return e;
      case TokenKind::kFloat: e->value = Value::of(std::stod(take().text)); return e;
      case TokenKind::kName: return name_or_constant(std::move(e));
      default: break;
    }
    if (take_op("(")) {
      if (take_op(")")) return node(ExprKind::kList);
      ExprPtr inner = tuple();
      expect_op(")");
      return inner;
    }
    if (take_op("[")) {
      e->kind = ExprKind::kList;
      while (!is_op("]")) {
        e->args.push_back(expression());
        if (!take_op(",")) break;
      }
      expect_op("]");
      return e;
    }
    if (take_op("{")) {
      e->kind = ExprKind::kDict;
      while (!is_op("}")) {
        e->args.push_back(expression());
        expect_op(":");
        e->args.push_back(expression());
        if (!take_op(",")) break;
      }
      expect_op("}");
      return e;
    }
    fail("expected an expression");
  }
  ExprPtr name_or_constant(ExprPtr e) {
    std::string text = take().text;
    if (text == "true" || text == "True") e->value = Value::of(true);
    else if (text == "false" || text == "False") e->value = Value::of(false);
    else if (text == "none" || text == "None") e->value = Value::none();
    else e->kind = ExprKind::kName, e->text = std::move(text);
    return e;
  }

  const std::vector<Token>& tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Block parse_tokens(const std::vector<Token>& tokens) { return Parser(tokens).template_body(); }

}  // namespace bp::rt::jinja
