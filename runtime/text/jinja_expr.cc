// Expressions of the evaluator: operators, attributes, items, slices, calls.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/text/jinja_eval.h"

namespace bp::rt::jinja {

Value Evaluator::eval(const Expr& e) {
  DepthGuard guard(depth_, limits_.depth);
  spend(1);
  switch (e.kind) {
    case ExprKind::kLiteral:
      return e.value;
    case ExprKind::kName:
      return lookup(e.text);
    case ExprKind::kList: {
      List out;
      for (const auto& a : e.args) out.push_back(eval(*a));
      return Value::list(std::move(out));
    }
    case ExprKind::kDict: {
      Dict out;
      for (size_t i = 0; i + 1 < e.args.size(); i += 2) {
        out.emplace_back(to_text(eval(*e.args[i])), eval(*e.args[i + 1]));
      }
      return Value::dict(std::move(out));
    }
    case ExprKind::kUnary: {
      Value v = eval(*e.args[0]);
      if (e.text == "not") return Value::of(!v.truthy());
      if (e.text == "+") return v;
      return v.is<double>() ? Value::of(-v.number()) : Value::of(-v.integer());
    }
    case ExprKind::kBinary:
      return binary(e);
    case ExprKind::kCompare:
      return comparison(e);
    case ExprKind::kCond:
      if (eval(*e.args[1]).truthy()) return eval(*e.args[0]);
      return e.args[2] ? eval(*e.args[2]) : Value();
    case ExprKind::kAttr:
      return attribute(eval(*e.args[0]), e.text);
    case ExprKind::kItem:
      return item(eval(*e.args[0]), eval(*e.args[1]));
    case ExprKind::kSlice:
      return slice(e);
    case ExprKind::kCall: {
      Value callee = eval(*e.args[0]);
      CallArgs args = arguments(e);
      if (callee.is_undefined()) {
        throw Failure(fmt::format("line {}: '{}' is not a function", e.line,
                                  std::get<Undefined>(callee.v).name));
      }
      return call(callee, args);
    }
    case ExprKind::kFilter:
      return filter(e, nullptr);
    case ExprKind::kTest: {
      Value input = eval(*e.args[0]);
      return Value::of(apply_test(e.text, input, arguments(e)));
    }
  }
  throw Failure("unknown expression");
}

Value Evaluator::filter(const Expr& e, const Value* input) {
  Value in = e.args[0] ? (e.args[0]->kind == ExprKind::kFilter && input ? filter(*e.args[0], input)
                                                                        : eval(*e.args[0]))
                       : (input ? *input : Value());
  CallArgs args = arguments(e);
  return apply_filter(*this, e.text, in, args);
}

CallArgs Evaluator::arguments(const Expr& e) {
  CallArgs args;
  for (size_t i = 1; i < e.args.size(); ++i) args.positional.push_back(eval(*e.args[i]));
  for (const auto& [name, value] : e.named) args.named.emplace_back(name, eval(*value));
  return args;
}

Value Evaluator::call(const Value& callee, CallArgs& args) {
  DepthGuard guard(depth_, limits_.depth);
  spend(1);
  auto* function = std::get_if<std::shared_ptr<Function>>(&callee.v);
  if (!function) throw Failure(fmt::format("{} cannot be called", callee.type_name()));
  auto keep = *function;
  return keep->call(args);
}

Value Evaluator::attribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) {
    throw Failure(fmt::format("'{}' is undefined", std::get<Undefined>(object.v).name));
  }
  if (auto* space = std::get_if<std::shared_ptr<Namespace>>(&object.v)) {
    auto found = (*space)->fields.find(name);
    return found == (*space)->fields.end() ? Value::undefined(name) : found->second;
  }
  Value method = find_method(*this, object, name);
  if (!method.is_undefined()) return method;
  if (object.is_dict()) {
    if (const Value* found = object.find(name)) return *found;
  }
  return Value::undefined(name);
}

Value Evaluator::item(const Value& object, const Value& key) {
  if (object.is_undefined()) {
    throw Failure(fmt::format("'{}' is undefined", std::get<Undefined>(object.v).name));
  }
  if (object.is_dict()) {
    const Value* found = key.is_string() ? object.find(key.str()) : nullptr;
    if (found) return *found;
    return Value::undefined(key.is_string() ? key.str() : "item");
  }
  if (key.is_string()) return attribute(object, key.str());
  if (!key.is_integer()) return Value::undefined("item");
  int64_t i = key.integer();
  if (object.is_string()) {
    auto chars = code_points(object.str());
    if (i < 0) i += static_cast<int64_t>(chars.size());
    if (i < 0 || i >= static_cast<int64_t>(chars.size())) return Value::undefined("item");
    return Value::of(std::string(chars[static_cast<size_t>(i)]));
  }
  if (!object.is_list()) return Value::undefined("item");
  auto n = static_cast<int64_t>(object.items().size());
  if (i < 0) i += n;
  return i < 0 || i >= n ? Value::undefined("list item") : object.items()[static_cast<size_t>(i)];
}

Value Evaluator::slice(const Expr& e) {
  Value object = eval(*e.args[0]);
  List items = iterate(object);
  spend(items.size() / 16);
  auto n = static_cast<int64_t>(items.size());
  auto bound = [&](size_t arg, int64_t absent) {
    if (!e.args[arg]) return absent;
    Value v = eval(*e.args[arg]);
    return v.is_none() ? absent : v.integer();
  };
  int64_t step = bound(3, 1);
  if (step == 0) throw Failure(fmt::format("line {}: slice step is 0", e.line));
  step = std::clamp<int64_t>(step, -n - 1, n + 1);
  auto clamp = [&](int64_t i) {
    i = std::clamp<int64_t>(i, -n - 1, n + 1);
    if (i < 0) i += n;
    return std::clamp<int64_t>(i, step < 0 ? -1 : 0, step < 0 ? n - 1 : n);
  };
  int64_t from = e.args[1] ? clamp(bound(1, 0)) : (step < 0 ? n - 1 : 0);
  int64_t to = e.args[2] ? clamp(bound(2, n)) : (step < 0 ? -1 : n);
  List out;
  for (int64_t i = from; step > 0 ? i < to : i > to; i += step)
    out.push_back(items[static_cast<size_t>(i)]);
  if (!object.is_string()) return Value::list(std::move(out));
  std::string text;
  for (const Value& v : out) text += v.str();
  return Value::of(std::move(text));
}

bool Evaluator::contains(const Value& needle, const Value& container) {
  if (container.is_string()) return container.str().find(needle.str()) != std::string::npos;
  if (container.is_dict()) return needle.is_string() && container.find(needle.str()) != nullptr;
  List items = iterate(container);
  spend(items.size());
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, needle); });
}

Value Evaluator::comparison(const Expr& e) {
  Value left = eval(*e.args[0]);
  for (size_t i = 0; i < e.ops.size(); ++i) {
    Value right = eval(*e.args[i + 1]);
    const std::string& op = e.ops[i];
    bool yes;
    if (op == "==")
      yes = equal(left, right);
    else if (op == "!=")
      yes = !equal(left, right);
    else if (op == "in")
      yes = contains(left, right);
    else if (op == "not in")
      yes = !contains(left, right);
    else if (op == "<")
      yes = compare(left, right) < 0;
    else if (op == ">")
      yes = compare(left, right) > 0;
    else if (op == "<=")
      yes = compare(left, right) <= 0;
    else
      yes = compare(left, right) >= 0;
    if (!yes) return Value::of(false);
    left = std::move(right);
  }
  return Value::of(true);
}

Value Evaluator::binary(const Expr& e) {
  if (e.text == "and" || e.text == "or") {
    Value left = eval(*e.args[0]);
    return left.truthy() == (e.text == "or") ? left : eval(*e.args[1]);
  }
  Value a = eval(*e.args[0]), b = eval(*e.args[1]);
  if (e.text == "~") {
    std::string text = to_text(a) + to_text(b);
    spend(text.size() / 64);
    if (text.size() > limits_.output_bytes) throw Failure("a string grew beyond the limit");
    return Value::of(std::move(text));
  }
  return arithmetic(e.text, a, b, e.line);
}

Value Evaluator::arithmetic(const std::string& op, const Value& a, const Value& b, int line) {
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined()) {
      throw Failure(
          fmt::format("line {}: '{}' is undefined", line, std::get<Undefined>(v->v).name));
    }
  }
  if (op == "+" && a.is_string() && b.is_string()) {
    spend((a.str().size() + b.str().size()) / 64);
    if (a.str().size() + b.str().size() > limits_.output_bytes)
      throw Failure("a string grew beyond the limit");
    return Value::of(a.str() + b.str());
  }
  if (op == "+" && a.is_list() && b.is_list()) {
    List out = a.items();
    spend(out.size() + b.items().size());
    out.insert(out.end(), b.items().begin(), b.items().end());
    return Value::list(std::move(out));
  }
  if (op == "*" && (a.is_string() || b.is_string())) {
    const std::string& text = a.is_string() ? a.str() : b.str();
    int64_t times = std::max<int64_t>(0, (a.is_string() ? b : a).integer());
    if (times > 1'000'000 || static_cast<size_t>(times) * text.size() > (1u << 20)) {
      throw Failure(fmt::format("line {}: a repeated string beyond 1 MiB", line));
    }
    std::string out;
    for (int64_t i = 0; i < times; ++i) out += text;
    spend(out.size() / 64);
    return Value::of(std::move(out));
  }
  if (op == "%" && a.is_string()) {
    CallArgs args;
    if (b.is_list())
      args.positional = b.items();
    else
      args.positional.push_back(b);
    return apply_filter(*this, "format", a, args);
  }
  if (!a.is_number() || !b.is_number()) {
    throw Failure(
        fmt::format("line {}: '{}' between {} and {}", line, op, a.type_name(), b.type_name()));
  }
  if (op == "/" || a.is<double>() || b.is<double>()) {
    double x = a.number(), y = b.number();
    if ((op == "/" || op == "//" || op == "%") && y == 0)
      throw Failure(fmt::format("line {}: division by zero", line));
    if (op == "+") return Value::of(x + y);
    if (op == "-") return Value::of(x - y);
    if (op == "*") return Value::of(x * y);
    if (op == "/") return Value::of(x / y);
    if (op == "//") return Value::of(std::floor(x / y));
    if (op == "%") return Value::of(x - std::floor(x / y) * y);
    return Value::of(std::pow(x, y));
  }
  int64_t x = a.integer(), y = b.integer(), out = 0;
  bool overflow = false;
  if (op == "+")
    overflow = __builtin_add_overflow(x, y, &out);
  else if (op == "-")
    overflow = __builtin_sub_overflow(x, y, &out);
  else if (op == "*")
    overflow = __builtin_mul_overflow(x, y, &out);
  else if (op == "**") {
    if (y < 0) return Value::of(std::pow(static_cast<double>(x), static_cast<double>(y)));
    out = 1;
    for (int64_t i = 0; i < y && !overflow && i < 64; ++i)
      overflow = __builtin_mul_overflow(out, x, &out);
    overflow = overflow || (y > 64 && x != 0 && x != 1 && x != -1);
    if (y > 64 && x == -1) out = y % 2 ? -1 : 1;
  } else {
    if (y == 0) throw Failure(fmt::format("line {}: division by zero", line));
    if (y == -1) {
      overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, x, &out);
      if (op == "%") out = 0;
    } else {
      int64_t quotient = x / y - ((x % y != 0) && ((x < 0) != (y < 0)));  // floor, as Python
      out = op == "//" ? quotient : x - quotient * y;
    }
  }
  if (overflow) throw Failure(fmt::format("line {}: integer overflow", line));
  return Value::of(out);
}

}  // namespace bp::rt::jinja
