// Tests of the interpreter ("x is defined"), after jinja2/tests.py.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "runtime/text/jinja_eval.h"
#include "runtime/text/jinja_text.h"

namespace bp::rt::jinja {
namespace {

bool ordered(const Value& a, const CallArgs& args, const std::string& op) {
  const Value* b = args.get(0, "other");
  if (!b) throw Failure(fmt::format("test '{}' misses its argument", op));
  if (op == "eq") return equal(a, *b);
  if (op == "ne") return !equal(a, *b);
  if (op == "in") {
    if (b->is_string()) return b->str().find(a.str()) != std::string::npos;
    List all = iterate(*b);
    return std::any_of(all.begin(), all.end(), [&](const Value& v) { return equal(v, a); });
  }
  int order = compare(a, *b);
  return op == "lt" ? order < 0 : op == "le" ? order <= 0 : op == "gt" ? order > 0 : order >= 0;
}

}  // namespace

bool apply_test(const std::string& name, const Value& v, const CallArgs& args) {
  static const std::unordered_map<std::string, std::string> kOrders = {
      {"eq", "eq"},          {"equalto", "eq"}, {"==", "eq"}, {"ne", "ne"},
      {"!=", "ne"},          {"in", "in"},      {"lt", "lt"}, {"lessthan", "lt"},
      {"<", "lt"},           {"le", "le"},      {"<=", "le"}, {"gt", "gt"},
      {"greaterthan", "gt"}, {">", "gt"},       {"ge", "ge"}, {">=", "ge"}};
  auto order = kOrders.find(name);
  if (order != kOrders.end()) return ordered(v, args, order->second);
  if (name == "defined") return !v.is_undefined();
  if (name == "undefined") return v.is_undefined();
  if (name == "none") return v.is_none();
  if (name == "string") return v.is_string();
  if (name == "number") return v.is_number();
  if (name == "integer") return v.is<int64_t>();
  if (name == "float") return v.is<double>();
  if (name == "boolean") return v.is<bool>();
  if (name == "true") return v.is<bool>() && v.truthy();
  if (name == "false") return v.is<bool>() && !v.truthy();
  if (name == "mapping") return v.is_dict();
  if (name == "iterable" || name == "sequence")
    return v.is_list() || v.is_string() || v.is_dict() || v.is_undefined();
  if (name == "callable") return v.is<std::shared_ptr<Function>>();
  if (name == "even") return v.integer() % 2 == 0;
  if (name == "odd") return v.integer() % 2 != 0;
  if (name == "lower") return v.str() == lower_text(v.str());
  if (name == "upper") return v.str() == upper_text(v.str());
  if (name == "divisibleby") {
    const Value* by = args.get(0, "num");
    if (!by || by->integer() == 0) throw Failure("divisibleby needs a number that is not 0");
    return by->integer() == -1 || v.integer() % by->integer() == 0;
  }
  throw Failure(fmt::format("test '{}' is not known", name));
}

}  // namespace bp::rt::jinja
