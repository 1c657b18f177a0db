// Filters over lists and dicts.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "runtime/text/jinja_filters.h"
#include "runtime/text/jinja_text.h"

namespace bp::rt::jinja {

const Value& need(CallArgs& args, size_t index, const char* name) {
  const Value* v = args.get(index, name);
  if (!v) throw Failure(fmt::format("a filter misses its argument '{}'", name));
  return *v;
}
bool flag(CallArgs& args, size_t index, const char* name, bool absent) {
  const Value* v = args.get(index, name);
  return v ? v->truthy() : absent;
}

namespace {

/// "a.b" or an index, as the attribute= arguments take it.
Value path_of(Evaluator& e, const Value& v, const Value& path) {
  if (path.is_integer()) return e.item(v, path);
  Value at = v;
  for (const std::string& part : split_on(path.str(), ".", -1)) {
    bool digits =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c); });
    at = digits ? e.item(at, Value::of(static_cast<int64_t>(std::stol(part))))
                : e.item(at, Value::of(part));
  }
  return at;
}

}  // namespace

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
      rest.positional.assign(args.positional.begin() + static_cast<ptrdiff_t>(test_at) + 1,
                             args.positional.end());
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
      rest.positional.assign(args.positional.begin() + (args.positional.empty() ? 0 : 1),
                             args.positional.end());
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
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key); }))
      continue;
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

Value batch(Evaluator&, const Value& v, CallArgs& args) {
  int64_t n = need(args, 0, "linecount").integer();
  if (n < 1) throw Failure("batch: size below 1");
  List out, row;
  for (const Value& item : iterate(v)) {
    row.push_back(item);
    if (static_cast<int64_t>(row.size()) == n) out.push_back(Value::list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    if (const Value* fill = args.get(1, "fill_with"))
      row.resize(std::min<size_t>(static_cast<size_t>(n), 100'000), *fill);
    out.push_back(Value::list(std::move(row)));
  }
  return Value::list(std::move(out));
}

}  // namespace bp::rt::jinja
