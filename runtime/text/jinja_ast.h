// Syntax tree of a template. Built by jinja_parser.cc, walked by jinja_eval.cc.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/jinja_value.h"

namespace bp::rt::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind {
  kLiteral,  // value
  kName,     // text
  kList,     // args
  kDict,     // args: key, value, key, value...
  kUnary,    // text: "-", "+", "not"; args[0]
  kBinary,   // text: + - * / // % ** ~ and or
  kCompare,  // args[0] (ops[i] args[i + 1])...
  kCond,     // args: then, condition, else (may be null)
  kAttr,     // args[0] . text
  kItem,     // args[0] [ args[1] ]
  kSlice,    // args[0] [ args[1] : args[2] : args[3] ], each may be null
  kCall,     // args[0] ( args[1...], named )
  kFilter,   // args[0] | text ( args[1...], named )
  kTest,     // args[0] is text ( args[1...] )
};

struct Expr {
  ExprKind kind;
  int line = 0;
  std::string text;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::string> ops;
  std::vector<std::pair<std::string, ExprPtr>> named;
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

enum class StmtKind {
  kText,      // text
  kOutput,    // expr
  kFor,       // names in expr if condition: body else orelse
  kIf,        // expr: body else orelse
  kSet,       // names (or target.attribute in text) = expr
  kSetBlock,  // names[0] = text of body, through filters (expr: kFilter chain over null)
  kMacro,     // text (names, defaults): body
  kBreak,
  kContinue,
  kScope,  // body, with nothing around it ({% generation %})
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  std::string text;
  std::vector<std::string> names;
  std::vector<ExprPtr> defaults;  // as many as the last parameters that have one
  ExprPtr expr;
  ExprPtr condition;
  Block body;
  Block orelse;
};

enum class TokenKind {
  kText,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kBegin,
  kEnd,
  kPrint,
  kPrintEnd,
  kEof
};
struct Token {
  TokenKind kind;
  std::string text;
  int line;
};

/// Whitespace control is done here: the text tokens are what is printed. Throws Failure.
std::vector<Token> lex(std::string_view source);
/// Throws Failure with the line.
Block parse_tokens(const std::vector<Token>& tokens);

/// Filters, tests and methods (jinja_filters.cc, jinja_tests.cc, jinja_methods.cc). All throw
/// Failure; nullptr-like: kind not known.
class Evaluator;
Value apply_filter(Evaluator& evaluator, const std::string& name, const Value& input,
                   CallArgs& args);
bool apply_test(const std::string& name, const Value& input, const CallArgs& args);
/// Method `name` of `object` as a callable, or undefined.
Value find_method(Evaluator& evaluator, const Value& object, const std::string& name);

}  // namespace bp::rt::jinja
