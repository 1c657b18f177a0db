// Filters of the interpreter, after jinja2/filters.py: those of single values, and the table of
// all.
#include "runtime/text/jinja_filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <unordered_map>

#include "runtime/text/jinja_text.h"

namespace bp::rt::jinja {
namespace {

using Filter = Value (*)(Evaluator&, const Value&, CallArgs&);

int64_t integer_or(CallArgs& args, size_t index, const char* name, int64_t absent) {
  const Value* v = args.get(index, name);
  return v && !v->is_none() ? v->integer() : absent;
}

Value length(Evaluator&, const Value& v, CallArgs&) {
  size_t n = v.is_string() ? code_points(v.str()).size()
             : v.is_dict() ? v.pairs().size()
                           : iterate(v).size();
  return Value::of(static_cast<int64_t>(n));
}

Value tojson(Evaluator& e, const Value& v, CallArgs& args) {
  const Value* indent =
      args.get(1, "indent");  // transformers: tojson(x, ensure_ascii, indent, ...)
  if (!args.positional.empty() && args.positional[0].is<int64_t>()) indent = &args.positional[0];
  bool one_line = !indent || indent->is_none();
  std::string text =
      to_json(v, one_line ? -1 : static_cast<int>(std::clamp<int64_t>(indent->integer(), 0, 16)),
              flag(args, 3, "sort_keys"));
  e.spend(text.size() / 16);
  return Value::of(std::move(text));
}

Value indent(Evaluator& e, const Value& v, CallArgs& args) {
  const Value* width = args.get(0, "width");
  std::string pad =
      !width ? "    "
      : width->is_string()
          ? width->str()
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
  if (v.is<double>() && std::abs(v.number()) < 9e18)
    return Value::of(static_cast<int64_t>(v.number()));
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
  double scale = std::pow(
      10.0, static_cast<double>(std::clamp<int64_t>(integer_or(args, 0, "precision", 0), -15, 15)));
  const Value* method = args.get(1, "method");
  double x = v.number() * scale;
  std::string how = method ? method->str() : "common";
  return Value::of((how == "ceil"    ? std::ceil(x)
                    : how == "floor" ? std::floor(x)
                                     : std::nearbyint(x)) /
                   scale);
}

/// printf-style formatting with %s, %d, %f, %r and %%.
Value format(Evaluator&, const Value& v, CallArgs& args) {
  std::string out;
  const std::string& f = v.str();
  size_t next = 0;
  for (size_t i = 0; i < f.size(); ++i) {
    if (f[i] != '%' || i + 1 >= f.size()) {
      out += f[i];
      continue;
    }
    size_t dot = ++i;
    while (i < f.size() && (std::isdigit(static_cast<unsigned char>(f[i])) || f[i] == '.')) ++i;
    if (i >= f.size()) throw Failure("format: cut off");
    if (f[i] == '%') {
      out += '%';
      continue;
    }
    if (next >= args.positional.size()) throw Failure("format: not enough arguments");
    const Value& a = args.positional[next++];
    std::string spec = f.substr(dot, i - dot);
    if (spec.size() > 5) throw Failure("format: width too large");
    size_t point = spec.find('.');
    int precision = point == std::string::npos ? 6 : std::atoi(spec.c_str() + point + 1);
    if (f[i] == 's')
      out += to_text(a);
    else if (f[i] == 'r')
      out += to_repr(a);
    else if (f[i] == 'd' || f[i] == 'i')
      out += std::to_string(a.is<double>() ? static_cast<int64_t>(a.number()) : a.integer());
    else if (f[i] == 'f')
      out += fmt::format("{:.{}f}", a.number(), std::clamp(precision, 0, 50));
    else
      throw Failure(fmt::format("format: %{} is not known", f[i]));
  }
  return Value::of(std::move(out));
}

Value escape(Evaluator& e, const Value& v, CallArgs&) {
  std::string out, text = to_text(v);
  e.spend(text.size() / 64);
  for (char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '\'')
      out += "&#39;";
    else if (c == '"')
      out += "&#34;";
    else
      out += c;
  }
  return Value::of(std::move(out));
}

Value trim(Evaluator&, const Value& v, CallArgs& args) {
  const Value* chars = args.get(0, "chars");
  return Value::of(
      strip_text(to_text(v), chars && !chars->is_none() ? chars->str() : "", true, true));
}
Value absent_default(Evaluator&, const Value& v, CallArgs& args) {
  const Value* other = args.get(0, "default_value");
  bool use = v.is_undefined() || (flag(args, 1, "boolean") && !v.truthy());
  return use ? (other ? *other : Value::of("")) : v;
}
Value replace(Evaluator& e, const Value& v, CallArgs& args) {
  std::string out = replace_text(to_text(v), to_text(need(args, 0, "old")),
                                 to_text(need(args, 1, "new")), integer_or(args, 2, "count", -1));
  e.spend(out.size() / 64);
  return Value::of(std::move(out));
}
const std::unordered_map<std::string, Filter>& filters() {
  static const std::unordered_map<std::string, Filter> kFilters = {
      {"length", length},
      {"count", length},
      {"map", map},
      {"sort", sort},
      {"dictsort", dictsort},
      {"unique", unique},
      {"tojson", tojson},
      {"indent", indent},
      {"int", to_int},
      {"float", to_float},
      {"round", round},
      {"join", join},
      {"format", format},
      {"escape", escape},
      {"e", escape},
      {"sum", sum},
      {"trim", trim},
      {"default", absent_default},
      {"d", absent_default},
      {"items", items},
      {"reverse", reverse},
      {"replace", replace},
      {"batch", batch},
      {"select",
       [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, false, true); }},
      {"reject",
       [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, false, false); }},
      {"selectattr",
       [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, true, true); }},
      {"rejectattr",
       [](Evaluator& e, const Value& v, CallArgs& a) { return choose(e, v, a, true, false); }},
      {"min", [](Evaluator& e, const Value& v, CallArgs& a) { return extreme(e, v, a, -1); }},
      {"max", [](Evaluator& e, const Value& v, CallArgs& a) { return extreme(e, v, a, 1); }},
      {"first", [](Evaluator&, const Value& v, CallArgs&) { return edge(v, true); }},
      {"last", [](Evaluator&, const Value& v, CallArgs&) { return edge(v, false); }},
      {"upper",
       [](Evaluator&, const Value& v, CallArgs&) { return Value::of(upper_text(to_text(v))); }},
      {"lower",
       [](Evaluator&, const Value& v, CallArgs&) { return Value::of(lower_text(to_text(v))); }},
      {"capitalize", [](Evaluator&, const Value& v,
                        CallArgs&) { return Value::of(capitalize_text(to_text(v))); }},
      {"title",
       [](Evaluator&, const Value& v, CallArgs&) { return Value::of(title_text(to_text(v))); }},
      {"string", [](Evaluator&, const Value& v, CallArgs&) { return Value::of(to_text(v)); }},
      {"safe", [](Evaluator&, const Value& v, CallArgs&) { return v; }},
      {"list", [](Evaluator&, const Value& v, CallArgs&) { return Value::list(iterate(v)); }},
      {"abs",
       [](Evaluator&, const Value& v, CallArgs&) {
         return v.is<double>() ? Value::of(std::abs(v.number())) : Value::of(std::abs(v.integer()));
       }},
  };
  return kFilters;
}

}  // namespace

Value apply_filter(Evaluator& evaluator, const std::string& name, const Value& input,
                   CallArgs& args) {
  evaluator.spend(1);
  auto found = filters().find(name);
  if (found == filters().end()) throw Failure(fmt::format("filter '{}' is not known", name));
  return found->second(evaluator, input, args);
}

}  // namespace bp::rt::jinja
