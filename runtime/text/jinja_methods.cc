// Methods of strings and dicts that templates call.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "runtime/text/jinja_eval.h"
#include "runtime/text/jinja_text.h"

namespace bp::rt::jinja {
namespace {

const std::string& text_arg(const CallArgs& args, size_t index, const char* method) {
  if (index >= args.positional.size())
    throw Failure(fmt::format("{}() misses an argument", method));
  return args.positional[index].str();
}
std::string chars_arg(const CallArgs& args) {
  return args.positional.empty() || args.positional[0].is_none() ? "" : args.positional[0].str();
}
Value texts(std::vector<std::string> parts) {
  List out;
  for (auto& p : parts) out.push_back(Value::of(std::move(p)));
  return Value::list(std::move(out));
}
/// startswith and endswith take one text or a tuple of them.
bool has_edge(const std::string& s, const CallArgs& args, bool start) {
  if (args.positional.empty()) throw Failure("startswith() and endswith() need an argument");
  auto one = [&](const std::string& x) {
    if (x.size() > s.size()) return false;
    return s.compare(start ? 0 : s.size() - x.size(), x.size(), x) == 0;
  };
  const Value& a = args.positional[0];
  if (a.is_string()) return one(a.str());
  return std::any_of(a.items().begin(), a.items().end(),
                     [&](const Value& v) { return one(v.str()); });
}
Value position(const std::string& s, const CallArgs& args, bool last, bool must) {
  const std::string& what = text_arg(args, 0, "find");
  size_t at = last ? s.rfind(what) : s.find(what);
  if (at == std::string::npos) {
    if (must) throw Failure("substring not found");
    return Value::of(int64_t{-1});
  }
  return Value::of(static_cast<int64_t>(code_points(std::string_view(s).substr(0, at)).size()));
}
bool every(const std::string& s, int (*test)(int)) {
  return !s.empty() &&
         std::all_of(s.begin(), s.end(), [&](unsigned char c) { return test(c) != 0; });
}
Value split(const std::string& s, const CallArgs& args, bool right) {
  const Value* sep = args.get(0, "sep");
  const Value* limit = args.get(1, "maxsplit");
  std::string separator = sep && !sep->is_none() ? sep->str() : "";
  if (sep && sep->is_string() && separator.empty()) throw Failure("empty separator");
  int64_t n = limit ? limit->integer() : -1;
  return texts(right ? split_on_right(s, separator, n) : split_on(s, separator, n));
}
Value split_lines(const std::string& s, const CallArgs& args) {
  const Value* keep_arg = args.get(0, "keepends");
  bool keep = keep_arg && keep_arg->truthy();
  std::vector<std::string> out;
  for (size_t i = 0; i < s.size();) {
    size_t end = s.find_first_of("\r\n", i);
    size_t next =
        end == std::string::npos ? s.size() : end + (s.compare(end, 2, "\r\n") == 0 ? 2 : 1);
    if (end == std::string::npos) end = s.size();
    out.push_back(s.substr(i, (keep ? next : end) - i));
    i = next;
  }
  return texts(std::move(out));
}
/// str.format with {} and {0} only.
Value brace_format(const std::string& s, const CallArgs& args) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < s.size(); ++i) {
    if ((s[i] == '{' || s[i] == '}') && i + 1 < s.size() && s[i + 1] == s[i]) {
      out += s[i++];
      continue;
    }
    if (s[i] != '{') {
      out += s[i];
      continue;
    }
    size_t end = s.find('}', i);
    if (end == std::string::npos) throw Failure("format(): '{' is not closed");
    std::string field = s.substr(i + 1, end - i - 1);
    const Value* v = nullptr;
    if (field.empty())
      v = args.get(next++, "");
    else if (every(field, std::isdigit) && field.size() < 4)
      v = args.get(static_cast<size_t>(std::stoi(field)), "");
    else
      v = args.get(SIZE_MAX, field);
    if (!v) throw Failure(fmt::format("format(): no argument for '{{{}}}'", field));
    out += to_text(*v);
    i = end;
  }
  return Value::of(std::move(out));
}

Value string_method(Evaluator& evaluator, const std::string& s, const std::string& name,
                    CallArgs& args) {
  evaluator.spend(1 + s.size() / 64);
  if (name == "strip") return Value::of(strip_text(s, chars_arg(args), true, true));
  if (name == "lstrip") return Value::of(strip_text(s, chars_arg(args), true, false));
  if (name == "rstrip") return Value::of(strip_text(s, chars_arg(args), false, true));
  if (name == "split") return split(s, args, false);
  if (name == "rsplit") return split(s, args, true);
  if (name == "splitlines") return split_lines(s, args);
  if (name == "startswith") return Value::of(has_edge(s, args, true));
  if (name == "endswith") return Value::of(has_edge(s, args, false));
  if (name == "upper") return Value::of(upper_text(s));
  if (name == "lower") return Value::of(lower_text(s));
  if (name == "title") return Value::of(title_text(s));
  if (name == "capitalize") return Value::of(capitalize_text(s));
  if (name == "find") return position(s, args, false, false);
  if (name == "rfind") return position(s, args, true, false);
  if (name == "index") return position(s, args, false, true);
  if (name == "isdigit") return Value::of(every(s, std::isdigit));
  if (name == "isalpha") return Value::of(every(s, std::isalpha));
  if (name == "isspace") return Value::of(every(s, std::isspace));
  if (name == "format") return brace_format(s, args);
  if (name == "replace") {
    int64_t count = args.positional.size() > 2 ? args.positional[2].integer() : -1;
    return Value::of(
        replace_text(s, text_arg(args, 0, "replace"), text_arg(args, 1, "replace"), count));
  }
  if (name == "count") {
    const std::string& what = text_arg(args, 0, "count");
    if (what.empty()) return Value::of(static_cast<int64_t>(code_points(s).size() + 1));
    return Value::of(static_cast<int64_t>(split_on(s, what, -1).size()) - 1);
  }
  if (name == "removeprefix")
    return Value::of(has_edge(s, args, true) ? s.substr(text_arg(args, 0, "removeprefix").size())
                                             : s);
  if (name == "removesuffix") {
    return Value::of(has_edge(s, args, false)
                         ? s.substr(0, s.size() - text_arg(args, 0, "removesuffix").size())
                         : s);
  }
  CallArgs rest;
  if (args.positional.empty()) throw Failure("join() misses an argument");
  rest.positional.push_back(Value::of(s));
  for (const Value& v : iterate(args.positional[0])) v.str();  // Python joins strings only
  return apply_filter(evaluator, "join", args.positional[0], rest);
}

Value dict_method(const Value& object, const std::string& name, CallArgs& args) {
  if (name == "get") {
    if (args.positional.empty()) throw Failure("get() misses an argument");
    const Value* found =
        args.positional[0].is_string() ? object.find(args.positional[0].str()) : nullptr;
    const Value* other = args.get(1, "default");
    return found ? *found : other ? *other : Value::none();
  }
  List out;
  for (const auto& [k, v] : object.pairs()) {
    if (name == "keys")
      out.push_back(Value::of(k));
    else if (name == "values")
      out.push_back(v);
    else
      out.push_back(Value::list({Value::of(k), v}));
  }
  return Value::list(std::move(out));
}

}  // namespace

Value find_method(Evaluator& evaluator, const Value& object, const std::string& name) {
  static constexpr std::string_view kString[] = {
      "strip",      "lstrip",   "rstrip", "split",        "rsplit",       "splitlines",
      "startswith", "endswith", "upper",  "lower",        "title",        "capitalize",
      "find",       "rfind",    "index",  "isdigit",      "isalpha",      "isspace",
      "format",     "replace",  "count",  "removeprefix", "removesuffix", "join"};
  static constexpr std::string_view kDict[] = {"get", "keys", "values", "items"};
  if (object.is_string() &&
      std::find(std::begin(kString), std::end(kString), name) != std::end(kString)) {
    return Value::function([&evaluator, object, name](CallArgs& args) {
      return string_method(evaluator, object.str(), name, args);
    });
  }
  // A loop's own fields and a dict's methods share the name space of the object, methods first, as
  // in Jinja.
  if (object.is_dict() && std::find(std::begin(kDict), std::end(kDict), name) != std::end(kDict)) {
    return Value::function(
        [object, name](CallArgs& args) { return dict_method(object, name, args); });
  }
  return Value();
}

}  // namespace bp::rt::jinja
