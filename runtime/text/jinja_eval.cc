#include "runtime/text/jinja_eval.h"

#include <fmt/format.h>

namespace bp::rt::jinja {
List iterate(const Value& v) {
  if (v.is_list()) return v.items();
  List out;
  if (v.is_dict()) {
    for (const auto& [k, value] : v.pairs()) out.push_back(Value::of(k));
  } else if (v.is_string()) {
    for (std::string_view c : code_points(v.str())) out.push_back(Value::of(std::string(c)));
  } else if (!v.is_undefined()) {
    throw Failure(fmt::format("{} cannot be looped over", v.type_name()));
  }
  return out;
}

Evaluator::Evaluator(std::map<std::string, Value> globals, Limits limits) : limits_(limits) {
  scopes_.push_back(std::move(globals));
  scopes_.emplace_back();
}

void Evaluator::spend(uint64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.steps) throw Failure(fmt::format("more than {} steps", limits_.steps));
}

void Evaluator::print(std::string& out, std::string_view text) {
  spend(1 + text.size() / 64);
  if (out.size() + text.size() > limits_.output_bytes) {
    throw Failure(fmt::format("more than {} bytes of output", limits_.output_bytes));
  }
  out += text;
}

std::string Evaluator::run(const Block& b) {
  std::string out;
  block(b, out);
  return out;
}

Evaluator::Flow Evaluator::block(const Block& b, std::string& out) {
  DepthGuard guard(depth_, limits_.depth);
  for (const auto& s : b) {
    Flow flow = statement(*s, out);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Evaluator::Flow Evaluator::statement(const Stmt& s, std::string& out) {
  spend(1);
  switch (s.kind) {
    case StmtKind::kText:
      print(out, s.text);
      break;
    case StmtKind::kOutput:
      print(out, to_text(eval(*s.expr)));
      break;
    case StmtKind::kFor:
      return for_loop(s, out);
    case StmtKind::kIf:
      return block(eval(*s.expr).truthy() ? s.body : s.orelse, out);
    case StmtKind::kSet:
      set(s);
      break;
    case StmtKind::kSetBlock:
      set_block(s, out);
      break;
    case StmtKind::kMacro:
      define_macro(s);
      break;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
    case StmtKind::kScope:
      return block(s.body, out);
  }
  return Flow::kNormal;
}

Evaluator::Flow Evaluator::for_loop(const Stmt& s, std::string& out) {
  List items = iterate(eval(*s.expr));
  if (s.condition) {
    List kept;
    for (Value& v : items) {
      scopes_.emplace_back();
      bind(s.names, v);
      if (eval(*s.condition).truthy()) kept.push_back(v);
      scopes_.pop_back();
    }
    items = std::move(kept);
  }
  if (items.empty()) return block(s.orelse, out);
  auto n = static_cast<int64_t>(items.size());
  for (int64_t i = 0; i < n; ++i) {
    spend(1);
    scopes_.emplace_back();
    auto at = [&](int64_t k) {
      return k >= 0 && k < n ? items[static_cast<size_t>(k)] : Value::undefined("loop item");
    };
    auto cycle = Value::function([i](CallArgs& args) {
      if (args.positional.empty()) throw Failure("loop.cycle needs an argument");
      return args.positional[static_cast<size_t>(i) % args.positional.size()];
    });
    scopes_.back()["loop"] = Value::dict({{"index", Value::of(i + 1)},
                                          {"index0", Value::of(i)},
                                          {"revindex", Value::of(n - i)},
                                          {"revindex0", Value::of(n - i - 1)},
                                          {"first", Value::of(i == 0)},
                                          {"last", Value::of(i == n - 1)},
                                          {"length", Value::of(n)},
                                          {"previtem", at(i - 1)},
                                          {"nextitem", at(i + 1)},
                                          {"cycle", cycle}});
    bind(s.names, items[static_cast<size_t>(i)]);
    Flow flow = block(s.body, out);
    scopes_.pop_back();
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNormal;
}

void Evaluator::bind(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    scopes_.back()[names[0]] = value;
    return;
  }
  List parts = iterate(value);
  if (parts.size() != names.size()) {
    throw Failure(
        fmt::format("expected {} values to unpack, found {}", names.size(), parts.size()));
  }
  for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = parts[i];
}

void Evaluator::set(const Stmt& s) {
  Value value = eval(*s.expr);
  if (s.text.empty()) return bind(s.names, value);
  Value target = lookup(s.names[0]);
  auto* space = std::get_if<std::shared_ptr<Namespace>>(&target.v);
  if (!space)
    throw Failure(
        fmt::format("line {}: cannot set an attribute of {}", s.line, target.type_name()));
  (*space)->fields[s.text] = std::move(value);
}

void Evaluator::set_block(const Stmt& s, std::string& out) {
  std::string text;
  scopes_.emplace_back();
  block(s.body, text);
  scopes_.pop_back();
  Value value = Value::of(std::move(text));
  if (s.expr) value = filter(*s.expr, &value);
  if (s.names.empty())
    print(out, to_text(value));
  else
    scopes_.back()[s.names[0]] = std::move(value);
}

void Evaluator::define_macro(const Stmt& s) {
  // A macro sees the template's outermost names and its own parameters.
  scopes_.back()[s.text] = Value::function([this, &s](CallArgs& args) {
    Scope scope;
    size_t without_default = s.names.size() - s.defaults.size();
    for (size_t i = 0; i < s.names.size(); ++i) {
      const Value* given = args.get(i, s.names[i]);
      if (given)
        scope[s.names[i]] = *given;
      else if (i >= without_default)
        scope[s.names[i]] = eval(*s.defaults[i - without_default]);
      else
        scope[s.names[i]] = Value::undefined(s.names[i]);
    }
    if (args.positional.size() > s.names.size()) {
      throw Failure(fmt::format("macro '{}' takes {} arguments, {} were given", s.text,
                                s.names.size(), args.positional.size()));
    }
    std::vector<Scope> saved(std::make_move_iterator(scopes_.begin() + 2),
                             std::make_move_iterator(scopes_.end()));
    scopes_.resize(2);
    scopes_.push_back(std::move(scope));
    std::string out;
    block(s.body, out);
    scopes_.resize(2);
    std::move(saved.begin(), saved.end(), std::back_inserter(scopes_));
    return Value::of(std::move(out));
  });
}

Value Evaluator::lookup(const std::string& name) {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    auto found = scope->find(name);
    if (found != scope->end()) return found->second;
  }
  return Value::undefined(name);
}

}  // namespace bp::rt::jinja
