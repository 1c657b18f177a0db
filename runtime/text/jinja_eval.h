// Evaluator: walks a template's tree. Bounded in steps, nesting and output. Thread-confined, one
// render.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "runtime/text/jinja_ast.h"

namespace bp::rt::jinja {

struct Limits {
  uint64_t steps = 5'000'000;  // nodes visited; 1,000 messages with a real template take ~100,000
  int depth = 600;             // nested calls and blocks
  size_t output_bytes = 32 << 20;  // a prompt cannot be longer than a request body by much
};

/// Counts nesting while it lives; Failure above the limit.
struct DepthGuard {
  DepthGuard(int& counter, int limit) : depth(counter) {
    if (depth >= limit) throw Failure("nested more than " + std::to_string(limit) + " deep");
    ++depth;
  }
  ~DepthGuard() { --depth; }
  int& depth;
};

class Evaluator {
 public:
  Evaluator(std::map<std::string, Value> globals, Limits limits);
  std::string run(const Block& block);
  Value eval(const Expr& e);
  Value call(const Value& callee, CallArgs& args);
  /// Counts work done on behalf of the template; Failure above the limit.
  void spend(uint64_t steps);
  /// object.name / object[key] as Jinja resolves them; undefined when absent.
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  using Scope = std::map<std::string, Value>;
  Flow block(const Block& b, std::string& out);
  Flow statement(const Stmt& s, std::string& out);
  Flow for_loop(const Stmt& s, std::string& out);
  void set(const Stmt& s);
  void set_block(const Stmt& s, std::string& out);
  void define_macro(const Stmt& s);
  void print(std::string& out, std::string_view text);
  void bind(const std::vector<std::string>& names, const Value& value);
  Value lookup(const std::string& name);
  Value binary(const Expr& e);
  Value arithmetic(const std::string& op, const Value& a, const Value& b, int line);
  Value comparison(const Expr& e);
  bool contains(const Value& item, const Value& container);
  Value slice(const Expr& e);
  CallArgs arguments(const Expr& e);
  Value filter(const Expr& e, const Value* input);

  std::vector<Scope> scopes_;
  Limits limits_;
  uint64_t steps_ = 0;
  int depth_ = 0;
};

/// The members a loop goes over: a list's items, a dict's keys, a string's characters.
List iterate(const Value& v);

}  // namespace bp::rt::jinja
