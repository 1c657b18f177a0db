// Values of the chat template interpreter: what Python objects a template can see. Cheap to copy
// (containers are shared). Thread-confined.
//
// Debian 12 packages no C++ Jinja library, and chat templates are Jinja programs: hence jinja_*. It
// follows Jinja 3.1 as `transformers` sets it up (trim_blocks, lstrip_blocks, loop controls,
// sandbox).
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace bp::rt::jinja {

/// Thrown inside the interpreter only; parse() and render() turn it into an Error.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
  bool refused = false;  // raise_exception of the template itself
};

class Value;
using List = std::vector<Value>;
/// Keeps the order of insertion, as Python's dict.
using Dict = std::vector<std::pair<std::string, Value>>;
struct CallArgs;
struct Function;

struct Undefined {
  std::string name;
};
struct None {};
/// A mutable bag of attributes: namespace().
struct Namespace {
  std::map<std::string, Value> fields;
};

class Value {
 public:
  using Variant =
      std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<List>,
                   std::shared_ptr<Dict>, std::shared_ptr<Namespace>, std::shared_ptr<Function>>;
  Value() : v(Undefined{}) {}
  Value(Variant variant) : v(std::move(variant)) {}
  static Value none() { return Value(Variant(None{})); }
  static Value undefined(std::string name) { return Value(Variant(Undefined{std::move(name)})); }
  static Value of(bool b) { return Value(Variant(b)); }
  static Value of(int64_t i) { return Value(Variant(i)); }
  static Value of(double d) { return Value(Variant(d)); }
  static Value of(std::string s) { return Value(Variant(std::move(s))); }
  static Value of(const char* s) { return of(std::string(s)); }
  static Value list(List items) { return Value(Variant(std::make_shared<List>(std::move(items)))); }
  static Value dict(Dict items) { return Value(Variant(std::make_shared<Dict>(std::move(items)))); }
  static Value function(std::function<Value(CallArgs&)> call);

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(v);
  }
  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_string() const { return is<std::string>(); }
  bool is_list() const { return is<std::shared_ptr<List>>(); }
  bool is_dict() const { return is<std::shared_ptr<Dict>>(); }
  bool is_number() const { return is<int64_t>() || is<double>() || is<bool>(); }
  bool is_integer() const { return is<int64_t>() || is<bool>(); }
  const std::string& str() const;  // Failure unless a string
  const List& items() const;       // Failure unless a list
  const Dict& pairs() const;       // Failure unless a dict
  int64_t integer() const;         // bool counts as 0 or 1
  double number() const;
  bool truthy() const;
  const Value* find(std::string_view key) const;  // of a dict; nullptr when absent
  const char* type_name() const;

  Variant v;
};

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  /// Positional `index`, else named `name`, else nullptr.
  const Value* get(size_t index, std::string_view name) const;
};
struct Function {
  std::function<Value(CallArgs&)> call;
};

bool equal(const Value& a, const Value& b);
/// <0, 0, >0; Failure when the two types have no order.
int compare(const Value& a, const Value& b);
/// As Python's str(): what {{ value }} prints.
std::string to_text(const Value& v);
/// As Python's repr().
std::string to_repr(const Value& v);
/// As json.dumps(ensure_ascii=False): ", " and ": " between items; `indent` < 0: one line.
std::string to_json(const Value& v, int indent = -1, bool sort_keys = false);

/// UTF-8 code points of a text; a broken byte counts as one.
std::vector<std::string_view> code_points(std::string_view text);

}  // namespace bp::rt::jinja
