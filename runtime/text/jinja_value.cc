#include "runtime/text/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace bp::rt::jinja {

Value Value::function(std::function<Value(CallArgs&)> call) {
  return Value(Variant(std::make_shared<Function>(Function{std::move(call)})));
}

const char* Value::type_name() const {
  static constexpr const char* kNames[] = {"undefined", "none", "boolean", "integer",   "float",
                                           "string",    "list", "dict",    "namespace", "function"};
  return kNames[v.index()];
}

const std::string& Value::str() const {
  if (!is_string()) throw Failure(fmt::format("expected a string, found {}", type_name()));
  return std::get<std::string>(v);
}
const List& Value::items() const {
  if (!is_list()) throw Failure(fmt::format("expected a list, found {}", type_name()));
  return *std::get<std::shared_ptr<List>>(v);
}
const Dict& Value::pairs() const {
  if (!is_dict()) throw Failure(fmt::format("expected a dict, found {}", type_name()));
  return *std::get<std::shared_ptr<Dict>>(v);
}
int64_t Value::integer() const {
  if (is<bool>()) return std::get<bool>(v) ? 1 : 0;
  if (!is<int64_t>()) throw Failure(fmt::format("expected an integer, found {}", type_name()));
  return std::get<int64_t>(v);
}
double Value::number() const {
  if (is<double>()) return std::get<double>(v);
  return static_cast<double>(integer());
}

bool Value::truthy() const {
  switch (v.index()) {
    case 0:
    case 1:
      return false;
    case 2:
      return std::get<bool>(v);
    case 3:
      return std::get<int64_t>(v) != 0;
    case 4:
      return std::get<double>(v) != 0.0;
    case 5:
      return !std::get<std::string>(v).empty();
    case 6:
      return !items().empty();
    case 7:
      return !pairs().empty();
    default:
      return true;
  }
}

const Value* Value::find(std::string_view key) const {
  for (const auto& [k, value] : pairs()) {
    if (k == key) return &value;
  }
  return nullptr;
}

const Value* CallArgs::get(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [k, value] : named) {
    if (k == name) return &value;
  }
  return nullptr;
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() == b.integer() : a.number() == b.number();
  }
  if (a.v.index() != b.v.index()) return false;
  if (a.is_string()) return a.str() == b.str();
  if (a.is_list()) {
    return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                      equal);
  }
  if (a.is_dict()) {
    if (a.pairs().size() != b.pairs().size()) return false;
    return std::all_of(a.pairs().begin(), a.pairs().end(), [&](const auto& kv) {
      const Value* other = b.find(kv.first);
      return other && equal(kv.second, *other);
    });
  }
  return a.is_none() || a.is_undefined();
}

int compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer())
      return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
    return a.number() < b.number() ? -1 : a.number() > b.number();
  }
  if (a.is_string() && b.is_string()) return a.str().compare(b.str());
  if (a.is_list() && b.is_list()) {
    size_t n = std::min(a.items().size(), b.items().size());
    for (size_t i = 0; i < n; ++i) {
      if (!equal(a.items()[i], b.items()[i])) return compare(a.items()[i], b.items()[i]);
    }
    return a.items().size() < b.items().size() ? -1 : a.items().size() > b.items().size();
  }
  throw Failure(fmt::format("cannot order {} and {}", a.type_name(), b.type_name()));
}

namespace {

std::string float_text(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  std::string s = fmt::format("{}", d);
  return s.find_first_of(".e") == std::string::npos ? s + ".0" : s;
}

std::string quoted_repr(std::string_view s) {
  char quote =
      s.find('\'') != std::string_view::npos && s.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (char c : s) {
    if (c == quote || c == '\\')
      out += '\\', out += c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + quote;
}

std::string json_string(std::string_view s) {
  std::string out = "\"";
  for (char c : s) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        else
          out += c;
    }
  }
  return out + '"';
}

void json_into(const Value& v, int indent, bool sort_keys, int depth, std::string& out) {
  if (depth > 64) throw Failure("tojson: nested more than 64 deep");
  auto newline = [&](int level) {
    if (indent >= 0) out += '\n', out.append(static_cast<size_t>(indent * level), ' ');
  };
  const char* comma = indent >= 0 ? "," : ", ";
  if (v.is_none())
    out += "null";
  else if (v.is<bool>())
    out += v.truthy() ? "true" : "false";
  else if (v.is<int64_t>())
    out += std::to_string(v.integer());
  else if (v.is<double>())
    out += float_text(v.number());
  else if (v.is_string())
    out += json_string(v.str());
  else if (v.is_list()) {
    if (v.items().empty()) {
      out += "[]";
      return;
    }
    out += '[';
    for (size_t i = 0; i < v.items().size(); ++i) {
      if (i) out += comma;
      newline(depth + 1);
      json_into(v.items()[i], indent, sort_keys, depth + 1, out);
    }
    newline(depth);
    out += ']';
  } else if (v.is_dict()) {
    if (v.pairs().empty()) {
      out += "{}";
      return;
    }
    Dict pairs = v.pairs();
    if (sort_keys)
      std::sort(pairs.begin(), pairs.end(), [](auto& a, auto& b) { return a.first < b.first; });
    out += '{';
    for (size_t i = 0; i < pairs.size(); ++i) {
      if (i) out += comma;
      newline(depth + 1);
      out += json_string(pairs[i].first) + ": ";
      json_into(pairs[i].second, indent, sort_keys, depth + 1, out);
    }
    newline(depth);
    out += '}';
  } else {
    throw Failure(fmt::format("{} is not JSON serializable", v.type_name()));
  }
}

}  // namespace

std::string to_repr(const Value& v) {
  if (v.is_string()) return quoted_repr(v.str());
  if (v.is_list()) {
    std::string out = "[";
    for (const Value& item : v.items()) out += (out.size() > 1 ? ", " : "") + to_repr(item);
    return out + "]";
  }
  if (v.is_dict()) {
    std::string out = "{";
    for (const auto& [k, item] : v.pairs()) {
      out += (out.size() > 1 ? ", " : "") + quoted_repr(k) + ": " + to_repr(item);
    }
    return out + "}";
  }
  return to_text(v);
}

std::string to_text(const Value& v) {
  switch (v.v.index()) {
    case 0:
      return "";
    case 1:
      return "None";
    case 2:
      return v.truthy() ? "True" : "False";
    case 3:
      return std::to_string(v.integer());
    case 4:
      return float_text(v.number());
    case 5:
      return v.str();
    case 6:
    case 7:
      return to_repr(v);
    default:
      throw Failure(fmt::format("a {} has no text", v.type_name()));
  }
}

std::string to_json(const Value& v, int indent, bool sort_keys) {
  std::string out;
  json_into(v, indent, sort_keys, 0, out);
  return out;
}

std::vector<std::string_view> code_points(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size();) {
    unsigned char c = static_cast<unsigned char>(text[i]);
    size_t n = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    n = std::min(n, text.size() - i);
    out.push_back(text.substr(i, n));
    i += n;
  }
  return out;
}

}  // namespace bp::rt::jinja
