// Sets the interpreter up as transformers' chat_template_utils does.
#include "runtime/text/chat_template.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <ctime>

#include "engine/base/limits.h"
#include "runtime/text/jinja_eval.h"

namespace bp::rt {

using jinja::CallArgs;
using jinja::Value;

struct ChatTemplate::Impl {
  ChatTemplateTokens tokens;
  jinja::Block body;
};

namespace {

Value from_json(const boost::json::value& v) {
  switch (v.kind()) {
    case boost::json::kind::null:
      return Value::none();
    case boost::json::kind::bool_:
      return Value::of(v.get_bool());
    case boost::json::kind::int64:
      return Value::of(v.get_int64());
    case boost::json::kind::uint64:
      return Value::of(static_cast<double>(v.get_uint64()));
    case boost::json::kind::double_:
      return Value::of(v.get_double());
    case boost::json::kind::string:
      return Value::of(std::string(v.get_string()));
    case boost::json::kind::array: {
      jinja::List out;
      for (const auto& item : v.get_array()) out.push_back(from_json(item));
      return Value::list(std::move(out));
    }
    case boost::json::kind::object: {
      jinja::Dict out;
      for (const auto& [k, item] : v.get_object())
        out.emplace_back(std::string(k), from_json(item));
      return Value::dict(std::move(out));
    }
  }
  return Value();
}

Value range(CallArgs& args) {
  int64_t from = 0, to = 0, step = 1;
  if (args.positional.size() == 1)
    to = args.positional[0].integer();
  else if (args.positional.size() >= 2)
    from = args.positional[0].integer(), to = args.positional[1].integer();
  else
    throw jinja::Failure("range() misses an argument");
  if (args.positional.size() > 2) step = args.positional[2].integer();
  if (step == 0) throw jinja::Failure("range() with step 0");
  jinja::List out;
  for (int64_t i = from; step > 0 ? i < to : i > to;) {
    if (out.size() >= 100'000) throw jinja::Failure("range() of more than 100000");
    out.push_back(Value::of(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::list(std::move(out));
}

Value strftime_now(CallArgs& args) {
  const Value* format = args.get(0, "format");
  if (!format || format->str().size() > 256)
    throw jinja::Failure("strftime_now() needs a short format");
  char text[1024];
  time_t now = time(nullptr);
  tm parts{};
  localtime_r(&now, &parts);
  size_t n = strftime(text, sizeof text, format->str().c_str(), &parts);
  return Value::of(std::string(text, n));
}

Value make_namespace(CallArgs& args) {
  auto space = std::make_shared<jinja::Namespace>();
  for (auto& [k, v] : args.named) space->fields[k] = v;
  if (!args.positional.empty()) {
    for (const auto& [k, v] : args.positional[0].pairs()) space->fields[k] = v;
  }
  return Value(Value::Variant(space));
}

std::map<std::string, Value> globals(const ChatTemplateTokens& tokens) {
  std::map<std::string, Value> g;
  g["range"] = Value::function(range);
  g["namespace"] = Value::function(make_namespace);
  g["dict"] = Value::function([](CallArgs& args) {
    jinja::Dict out = args.positional.empty() ? jinja::Dict{} : args.positional[0].pairs();
    for (auto& [k, v] : args.named) out.emplace_back(k, v);
    return Value::dict(std::move(out));
  });
  g["strftime_now"] = Value::function(strftime_now);
  g["raise_exception"] = Value::function([](CallArgs& args) -> Value {
    jinja::Failure refusal(args.positional.empty() ? "refused"
                                                   : jinja::to_text(args.positional[0]));
    refusal.refused = true;
    throw refusal;
  });
  g["bos_token"] = Value::of(tokens.bos);
  g["eos_token"] = Value::of(tokens.eos);
  g["tools"] = Value::none();
  g["documents"] = Value::none();
  return g;
}

Result<std::string> run(const jinja::Block& body, std::map<std::string, Value> g) {
  try {
    jinja::Evaluator evaluator(std::move(g), jinja::Limits{});
    return evaluator.run(body);
  } catch (const jinja::Failure& failure) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("the model's chat template {}: {}",
                             failure.refused ? "refuses the messages" : "failed", failure.what()),
                 {}};
  } catch (const std::exception& e) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("the model's chat template failed: {}", e.what()),
                 {}};
  }
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::parse(const std::string& source,
                                                          ChatTemplateTokens tokens) {
  if (source.size() > (1u << 20)) {
    return Error{ErrorCode::kTooLarge,
                 fmt::format("chat template: {} bytes, at most 1048576 expected", source.size()),
                 {}};
  }
  auto impl = std::make_unique<Impl>();
  impl->tokens = std::move(tokens);
  try {
    impl->body = jinja::parse_tokens(jinja::lex(source));
  } catch (const std::exception& e) {
    return Error{ErrorCode::kCorruptData, fmt::format("chat template: {}", e.what()), {}};
  }
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

Result<std::string> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                         bool add_generation_prompt) const {
  auto g = globals(impl_->tokens);
  jinja::List list;
  for (const ChatMessage& m : messages) {
    list.push_back(Value::dict({{"role", Value::of(m.role)}, {"content", Value::of(m.content)}}));
  }
  g["messages"] = Value::list(std::move(list));
  g["add_generation_prompt"] = Value::of(add_generation_prompt);
  return run(impl_->body, std::move(g));
}

Result<std::string> ChatTemplate::render_json(std::string_view variables_json) const {
  boost::json::error_code ec;
  boost::json::value v = boost::json::parse({variables_json.data(), variables_json.size()}, ec);
  if (ec || !v.is_object()) {
    return Error{ErrorCode::kInvalidArgument, "template variables: expected a JSON object", {}};
  }
  auto g = globals(impl_->tokens);
  for (const auto& [k, item] : v.get_object()) g[std::string(k)] = from_json(item);
  return run(impl_->body, std::move(g));
}

}  // namespace bp::rt
