#include "runtime/text/jinja_expr_parser.h"

namespace bp::rt::jinja {

ExprPtr ExprParser::tuple(bool with_condition) {
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

ExprPtr ExprParser::expression() {
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

ExprPtr ExprParser::binary(std::string op, ExprPtr left, ExprPtr right) {
  auto e = node(ExprKind::kBinary, std::move(op));
  e->args.push_back(std::move(left));
  e->args.push_back(std::move(right));
  return e;
}

ExprPtr ExprParser::or_expr() {
  ExprPtr left = and_expr();
  while (take_name("or")) left = binary("or", std::move(left), and_expr());
  return left;
}

ExprPtr ExprParser::and_expr() {
  ExprPtr left = not_expr();
  while (take_name("and")) left = binary("and", std::move(left), not_expr());
  return left;
}

ExprPtr ExprParser::not_expr() {
  Depth depth(*this);
  if (!is_name("not")) return compare_expr();
  auto e = node(ExprKind::kUnary, take().text);
  e->args.push_back(not_expr());
  return e;
}

std::string ExprParser::compare_op() {
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

ExprPtr ExprParser::compare_expr() {
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

ExprPtr ExprParser::sum_expr() {
  ExprPtr left = concat_expr();
  while (is_op("+") || is_op("-")) {
    std::string op = take().text;
    left = binary(op, std::move(left), concat_expr());
  }
  return left;
}

ExprPtr ExprParser::concat_expr() {
  ExprPtr left = product_expr();
  while (take_op("~")) left = binary("~", std::move(left), product_expr());
  return left;
}

ExprPtr ExprParser::product_expr() {
  ExprPtr left = power_expr();
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    std::string op = take().text;
    left = binary(op, std::move(left), power_expr());
  }
  return left;
}

ExprPtr ExprParser::power_expr() {
  ExprPtr left = unary_expr(true);
  while (take_op("**")) left = binary("**", std::move(left), unary_expr(true));
  return left;
}

ExprPtr ExprParser::unary_expr(bool with_filter) {
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

ExprPtr ExprParser::postfix(ExprPtr e) {
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

ExprPtr ExprParser::subscript(ExprPtr object) {
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

void ExprParser::call_args(Expr& call) {
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

ExprPtr ExprParser::filter_chain(ExprPtr input, std::string filter) {
  for (;;) {
    auto e = node(ExprKind::kFilter, std::move(filter));
    e->args.push_back(std::move(input));
    if (is_op("(")) call_args(*e);
    input = std::move(e);
    if (!take_op("|")) return input;
    filter = name();
  }
}

ExprPtr ExprParser::filters(ExprPtr e) {
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

void ExprParser::test_args(Expr& test) {
  if (is_op("(")) return call_args(test);
  const Token& t = peek();
  bool operand = t.kind == TokenKind::kString || t.kind == TokenKind::kInteger ||
                 t.kind == TokenKind::kFloat || is_op("[") || is_op("{") ||
                 (t.kind == TokenKind::kName && t.text != "else" && t.text != "or" &&
                  t.text != "and" && t.text != "is" && t.text != "if" && t.text != "in" &&
                  t.text != "not" && t.text != "recursive");
  if (operand) test.args.push_back(postfix(primary()));
}

ExprPtr ExprParser::primary() {
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
    case TokenKind::kInteger:
      e->value = Value::of(static_cast<int64_t>(std::stoll(take().text)));
      return e;
    case TokenKind::kFloat:
      e->value = Value::of(std::stod(take().text));
      return e;
    case TokenKind::kName:
      return name_or_constant(std::move(e));
    default:
      break;
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

ExprPtr ExprParser::name_or_constant(ExprPtr e) {
  std::string text = take().text;
  if (text == "true" || text == "True")
    e->value = Value::of(true);
  else if (text == "false" || text == "False")
    e->value = Value::of(false);
  else if (text == "none" || text == "None")
    e->value = Value::none();
  else
    e->kind = ExprKind::kName, e->text = std::move(text);
  return e;
}

}  // namespace bp::rt::jinja
