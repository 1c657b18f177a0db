// Filters and tests of the interpreter, after jinja2/filters.py and tests.py.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <unordered_map>

#include "runtime/text/jinja_eval.h"
#include "runtime/text/jinja_text.h"

namespace bp::rt::jinja {
namespace {

using Filter = Value (*)(Evaluator&, const Value&, CallArgs&);

const Value& need(CallArgs& args, size_t index, const char* name) {
  const Value* v = args.get(index, name);
  if (!v) throw Failure(fmt::format("a filter misses its argument '{}'", name));
  return *v;
}
int64_t integer_or(CallArgs& args, size_t index, const char* name, int64_t absent) {
  const Value* v = args.get(index, name);
  return v && !v->is_none() ? v->integer() : absent;
}
bool flag(CallArgs& args, size_t index, const char* name, bool absent = false) {
  const Value* v = args.get(index, name);
  return v ? v->truthy() : absent;
}

Value length(Evaluator&, const Value& v, CallArgs&) {
  size_t n = v.is_string() ? code_points(v.str()).size() : v.is_dict() ? v.pairs().size() : iterate(v).size();
  return Value::of(static_cast<int64_t>(n));
}

/// "a.b" or an index, as the attribute= arguments take it.
Value path_of(Evaluator& e, const Value& v, const Value& path) {
  if (path.is_integer()) return e.item(v, path);
  Value at = v;
  for (const std::string& part : split_on(path.str(), ".", -1)) {
    bool digits = !part.empty() && part.size() < 10 && std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c); });
    at = digits ? e.item(at, Value::of(static_cast<int64_t>(std::stol(part)))) : e.item(at, Value::of(part));
  }
  return at;
}

/// select, reject, selectattr, rejectattr.
Value choose(Evaluator& e, const Value& v, CallArgs& args, bool by_attribute, bool keep) {
  size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute) need(args, 0, "attribute");
  List out;
  for (const Value& item : iterate(v)) {
    e.spend(1);
    Value subject = by_attribute ? path_of(e, item, args.positional.at(0)) : item;
    bool yes;
    if (args.positional.size() > test_at) {
      CallArgs rest;
      rest.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(test_at) + 1, args.positional.end());
      yes = apply_test(args.positional[test_at].str(), subject, rest);
    } else {
      yes = subject.truthy();
    }
    if (yes == keep) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value map(Evaluator& e, const Value& v, CallArgs& args) {
  List out;
  const Value* attribute = nullptr;
  const Value* absent = nullptr;
  for (const auto& [k, value] : args.named) {
    if (k == "attribute") attribute = &value;
    if (k == "default") absent = &value;
  }
  for (const Value& item : iterate(v)) {
    e.spend(1);
    if (attribute) {
      Value found = path_of(e, item, *attribute);
      out.push_back(found.is_undefined() && absent ? *absent : found);
    } else {
      CallArgs rest;
      rest.positional.assign(args.positional.begin() + (args.positional.empty() ? 0 : 1), args.positional.end());
      out.push_back(apply_filter(e, need(args, 0, "filter").str(), item, rest));
    }
  }
  return Value::list(std::move(out));
}

Value sort(Evaluator& e, const Value& v, CallArgs& args) {
  List out = iterate(v);
  e.spend(out.size() * 8);
  const Value* attribute = args.get(2, "attribute");
  bool case_sensitive = flag(args, 1, "case_sensitive"), reverse = flag(args, 0, "reverse");
  auto key = [&](const Value& item) {
    Value k = attribute && !attribute->is_none() ? path_of(e, item, *attribute) : item;
    return !case_sensitive && k.is_string() ? Value::of(lower_text(k.str())) : k;
  };
  std::stable_sort(out.begin(), out.end(), [&](const Value& a, const Value& b) {
    return reverse ? compare(key(b), key(a)) < 0 : compare(key(a), key(b)) < 0;
  });
  return Value::list(std::move(out));
}

Value dictsort(Evaluator& e, const Value& v, CallArgs& args) {
  Dict pairs = v.pairs();
  e.spend(pairs.size() * 8);
  const Value* by_arg = args.get(1, "by");
  bool by_value = by_arg && by_arg->str() == "value", reverse = flag(args, 2, "reverse");
  bool case_sensitive = flag(args, 0, "case_sensitive");
  auto key = [&](const std::pair<std::string, Value>& kv) {
    Value k = by_value ? kv.second : Value::of(kv.first);
    return !case_sensitive && k.is_string() ? Value::of(lower_text(k.str())) : k;
  };
  std::stable_sort(pairs.begin(), pairs.end(), [&](const auto& a, const auto& b) {
    return reverse ? compare(key(b), key(a)) < 0 : compare(key(a), key(b)) < 0;
  });
  List out;
  for (auto& [k, value] : pairs) out.push_back(Value::list({Value::of(k), value}));
  return Value::list(std::move(out));
}

Value unique(Evaluator& e, const Value& v, CallArgs& args) {
  const Value* attribute = args.get(1, "attribute");
  List out, keys;
  for (const Value& item : iterate(v)) {
    Value key = attribute && !attribute->is_none() ? path_of(e, item, *attribute) : item;
    if (key.is_string() && !flag(args, 0, "case_sensitive")) key = Value::of(lower_text(key.str()));
    e.spend(1 + keys.size());
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key); })) continue;
    keys.push_back(key);
    out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value extreme(Evaluator& e, const Value& v, CallArgs& args, int sign) {
  const Value* attribute = args.get(1, "attribute");
  Value best, best_key;
  for (const Value& item : iterate(v)) {
    e.spend(1);
    Value key = attribute ? path_of(e, item, *attribute) : item;
    if (best.is_undefined() || compare(key, best_key) * sign > 0) best = item, best_key = key;
  }
  return best;
}

Value tojson(Evaluator& e, const Value& v, CallArgs& args) {
  const Value* indent = args.get(1, "indent");  // transformers: tojson(x, ensure_ascii, indent, ...)
  if (!args.positional.empty() && args.positional[0].is<int64_t>()) indent = &args.positional[0];
  bool one_line = !indent || indent->is_none();
  std::string text = to_json(v, one_line ? -1 : static_cast<int>(std::clamp<int64_t>(indent->integer(), 0, 16)),
                             flag(args, 3, "sort_keys"));
  e.spend(text.size() / 16);
  return Value::of(std::move(text));
}

Value indent(Evaluator& e, const Value& v, CallArgs& args) {
  const Value* width = args.get(0, "width");
  std::string pad = !width ? "    " : width->is_string() ? width->str()
                  : std::string(static_cast<size_t>(std::clamp<int64_t>(width->integer(), 0, 256)), ' ');
  bool first = flag(args, 1, "first"), blank = flag(args, 2, "blank");
  std::string out;
  bool begin = true;
  for (const std::string& line : split_on(to_text(v), "\n", -1)) {
    e.spend(1);
    if (!begin) out += '\n';
    if ((begin ? first : true) && (blank || !line.empty() || (begin && first))) out += pad;
    out += line;
    begin = false;
  }
  return Value::of(std::move(out));
}

Value to_int(Evaluator&, const Value& v, CallArgs& args) {
  if (v.is<double>() && std::abs(v.number()) < 9e18) return Value::of(static_cast<int64_t>(v.number()));
  if (v.is_integer()) return Value::of(v.integer());
  if (v.is_string()) {
    char* end = nullptr;
    std::string text = strip_text(v.str(), " \t\r\n", true, true);
    double d = std::strtod(text.c_str(), &end);
    if (!text.empty() && !*end && std::abs(d) < 9e15) return Value::of(static_cast<int64_t>(d));
  }
  const Value* absent = args.get(0, "default");
  return absent ? *absent : Value::of(int64_t{0});
}

Value to_float(Evaluator&, const Value& v, CallArgs& args) {
  if (v.is_number()) return Value::of(v.number());
  if (v.is_string()) {
    char* end = nullptr;
    double d = std::strtod(v.str().c_str(), &end);
    if (!v.str().empty() && !*end) return Value::of(d);
  }
  const Value* absent = args.get(0, "default");
  return absent ? *absent : Value::of(0.0);
}

Value round(Evaluator&, const Value& v, CallArgs& args) {
  double scale = std::pow(10.0, static_cast<double>(std::clamp<int64_t>(integer_or(args, 0, "precision", 0), -15, 15)));
  const Value* method = args.get(1, "method");
  double x = v.number() * scale;
  std::string how = method ? method->str() : "common";
  return Value::of((how == "ceil" ? std::ceil(x) : how == "floor" ? std::floor(x) : std::nearbyint(x)) / scale);
}

Value join(Evaluator& e, const Value& v, CallArgs& args) {
  const Value* separator = args.get(0, "d");
  const Value* attribute = args.get(1, "attribute");
  std::string out, between = separator ? to_text(*separator) : "";
  bool first = true;
  for (const Value& item : iterate(v)) {
    if (!first) out += between;
    out += to_text(attribute ? path_of(e, item, *attribute) : item);
    e.spend(1 + between.size() / 64);
    if (out.size() > (64u << 20)) throw Failure("join: more than 64 MiB");
    first = false;
  }
  return Value::of(std::move(out));
}

/// printf-style formatting with %s, %d, %f, %r and %%.
Value format(Evaluator&, const Value& v, CallArgs& args) {
  std::string out;
  const std::string& f = v.str();
  size_t next = 0;
  for (size_t i = 0; i < f.size(); ++i) {
    if (f[i] != '%' || i + 1 >= f.size()) { out += f[i]; continue; }
    size_t dot = ++i;
    while (i < f.size() && (std::isdigit(static_cast<unsigned char>(f[i])) || f[i] == '.')) ++i;
    if (i >= f.size()) throw Failure("format: cut off");
    if (f[i] == '%') { out += '%'; continue; }
    if (next >= args.positional.size()) throw Failure("format: not enough arguments");
    const Value& a = args.positional[next++];
    std::string spec = f.substr(dot, i - dot);
    if (spec.size() > 5) throw Failure("format: width too large");
    size_t point = spec.find('.');
    int precision = point == std::string::npos ? 6 : std::atoi(spec.c_str() + point + 1);
    if (f[i] == 's') out += to_text(a);
    else if (f[i] == 'r') out += to_repr(a);
    else if (f[i] == 'd' || f[i] == 'i') out += std::to_string(a.is<double>() ? static_cast<int64_t>(a.number()) : a.integer());
    else if (f[i] == 'f') out += fmt::format("{:.{}f}", a.number(), std::clamp(precision, 0, 50));
    else throw Failure(fmt::format("format: %{} is not known", f[i]));
  }
  return Value::of(std::move(out));
}

Value escape(Evaluator& e, const Value& v, CallArgs&) {
  std::string out, text = to_text(v);
  e.spend(text.size() / 64);
  for (char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '\'') out += "&#39;";
    else if (c == '"') out += "&#34;";
    else out += c;
  }
  return Value::of(std::move(out));
}

Value sum(Evaluator& e, const Value& v, CallArgs& args) {
  const Value* attribute = args.get(0, "attribute");
  double total = 0;
  int64_t whole = 0;
  bool integers = true;
  for (const Value& item : iterate(v)) {
    Value x = attribute && !attribute->is_none() ? path_of(e, item, *attribute) : item;
    if (x.is_integer()) {
      if (__builtin_add_overflow(whole, x.integer(), &whole)) throw Failure("sum: overflow");
    } else {
      integers = false;
    }
    total += x.number();
  }
  return integers ? Value::of(whole) : Value::of(total);
}

Value trim(Evaluator&, const Value& v, CallArgs& args) {
  const Value* chars = args.get(0, "chars");
  return Value::of(strip_text(to_text(v), chars && !chars->is_none() ? chars->str() : "", true, true));
}
Value absent_default(Evaluator&, const Value& v, CallArgs& args) {
  const Value* other = args.get(0, "default_value");
  bool use = v.is_undefined() || (flag(args, 1, "boolean") && !v.truthy());
  return use ? (other ? *other : Value::of("")) : v;
}
Value items(Evaluator&, const Value& v, CallArgs&) {
  List out;
  if (v.is_undefined()) return Value::list({});
  for (const auto& [k, value] : v.pairs()) out.push_back(Value::list({Value::of(k), value}));
  return Value::list(std::move(out));
}
Value reverse(Evaluator&, const Value& v, CallArgs&) {
  List out = iterate(v);
  std::reverse(out.begin(), out.end());
  if (!v.is_string()) return Value::list(std::move(out));
  std::string text;
  for (const Value& c : out) text += c.str();
  return Value::of(std::move(text));
}
Value edge(const Value& v, bool first) {
  List all = iterate(v);
  return all.empty() ? Value::undefined("item of an empty list") : first ? all.front() : all.back();
}
Value replace(Evaluator& e, const Value& v, CallArgs& args) {
  std::string out = replace_text(to_text(v), to_text(need(args, 0, "old")), to_text(need(args, 1, "new")),
                                 integer_or(args, 2, "count", -1));
  e.spend(out.size() / 64);
  return Value::of(std::move(out));
}
Value batch(Evaluator&, const Value& v, CallArgs& args) {
  int64_t n = need(args, 0, "linecount").integer();
  if (n < 1) throw Failure("batch: size below 1");
  List out, row;
  for (const Value& item : iterate(v)) {
    row.push_back(item);
    if (static_cast<int64_t>(row.size()) == n) out.push_back(Value::list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    if (const Value* fill = args.get(1, "fill_with")) row.resize(std::min<size_t>(static_cast<size_t>(n), 100'000), *fill);
    out.push_back(Value::list(std::move(row)));
  }
  return Value::list(std::move(out));
}

const std::unordered_map<std::string, Filter>& filters() {
  static const std::unordered_map<std::string, Filter> kFilters = {
      {"length", length}, {"count", length}, {"map", map}, {"sort", sort}, {"dictsort", dictsort},
      {"unique", unique}, {"tojson", tojson}, {"indent", indent}, {"int", to_int}, {"float", to_float},
      {"round", round}, {"join", join}, {"format", format}, {"escape", escape}, {"e", escape}, {"sum", sum},
      {"trim", trim}, {"default", absent_default}, {"d", absent_default}, {"items", items},
      {"reverse", reverse}, {"replace", replace}, {"batch", batch},
      {"select", [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, false, true); }},
      {"reject", [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, false, false); }},
      {"selectattr", [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, true, true); }},
      {"rejectattr", [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, true, false); }},
      {"min", [](Evaluator& e, const Value& v, CallArgs& a) { return extreme(e, v, a, -1); }},
      {"max", [](Evaluator& e, const Value& v, CallArgs& a) { return extreme(e, v, a, 1); }},
      {"first", [](Evaluator&, const Value& v, CallArgs&) { return edge(v, true); }},
      {"last", [](Evaluator&, const Value& v, CallArgs&) { return edge(v, false); }},
      {"upper", [](Evaluator&, const Value& v, CallArgs&) { return Value::of(upper_text(to_text(v))); }},
      {"lower", [](Evaluator&, const Value& v, CallArgs&) { return Value::of(lower_text(to_text(v))); }},
      {"capitalize", [](Evaluator&, const Value& v, CallArgs&) { return Value::of(capitalize_text(to_text(v))); }},
      {"title", [](Evaluator&, const Value& v, CallArgs&) { return Value::of(title_text(to_text(v))); }},
      {"string", [](Evaluator&, const Value& v, CallArgs&) { return Value::of(to_text(v)); }},
      {"safe", [](Evaluator&, const Value& v, CallArgs&) { return v; }},
      {"list", [](Evaluator&, const Value& v, CallArgs&) { return Value::list(iterate(v)); }},
      {"abs", [](Evaluator&, const Value& v, CallArgs&) {
         return v.is<double>() ? Value::of(std::abs(v.number())) : Value::of(std::abs(v.integer()));
       }},
  };
  return kFilters;
}

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

Value apply_filter(Evaluator& evaluator, const std::string& name, const Value& input, CallArgs& args) {
  evaluator.spend(1);
  auto found = filters().find(name);
  if (found == filters().end()) throw Failure(fmt::format("filter '{}' is not known", name));
  return found->second(evaluator, input, args);
}

bool apply_test(const std::string& name, const Value& v, const CallArgs& args) {
  static const std::unordered_map<std::string, std::string> kOrders = {
      {"eq", "eq"}, {"equalto", "eq"}, {"==", "eq"}, {"ne", "ne"}, {"!=", "ne"}, {"in", "in"},
      {"lt", "lt"}, {"lessthan", "lt"}, {"<", "lt"}, {"le", "le"}, {"<=", "le"},
      {"gt", "gt"}, {"greaterthan", "gt"}, {">", "gt"}, {"ge", "ge"}, {">=", "ge"}};
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
  if (name == "iterable" || name == "sequence") return v.is_list() || v.is_string() || v.is_dict() || v.is_undefined();
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
