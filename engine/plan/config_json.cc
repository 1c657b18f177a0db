// ModelConfig from config.json. Keys and defaults: transformers' LlamaConfig.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "engine/base/limits.h"
#include "engine/plan/json_text.h"
#include "engine/plan/model_header.h"

namespace bp::plan {
namespace {

namespace json = boost::json;

Error corrupt(std::string_view key, const std::string& found, const std::string& expected) {
  return Error{ErrorCode::kCorruptData,
               fmt::format("config.json {}: found {}, expected {}", key, found, expected),
               {}};
}

Error unsupported(std::string_view key, const std::string& found, const std::string& expected) {
  return Error{ErrorCode::kUnsupported,
               fmt::format("config.json {}: found {}, expected {}", key, found, expected),
               "Use a plain Llama model"};
}

std::string short_text(const json::value& v) { return json::serialize(v).substr(0, 80); }

const json::value* find(const json::object& o, std::string_view key) {
  const json::value* v = o.if_contains(json::string_view(key.data(), key.size()));
  return v && !v->is_null() ? v : nullptr;
}

Result<uint32_t> number(const json::object& o, std::string_view key, uint32_t max) {
  const json::value* v = find(o, key);
  if (!v) return corrupt(key, "none", "a number");
  int64_t n = v->is_int64() ? v->get_int64() : -1;
  if (n < 1 || n > int64_t{max}) return corrupt(key, short_text(*v), fmt::format("1 to {}", max));
  return static_cast<uint32_t>(n);
}

Result<uint32_t> number_or(const json::object& o, std::string_view key, uint32_t max,
                           uint32_t otherwise) {
  if (!find(o, key)) return otherwise;
  return number(o, key, max);
}

Result<double> real_or(const json::object& o, std::string_view key, double otherwise) {
  const json::value* v = find(o, key);
  if (!v) return otherwise;
  const double d = v->is_double() ? v->get_double() : v->is_int64() ? double(v->get_int64()) : -1.0;
  if (!std::isfinite(d) || d <= 0) return corrupt(key, short_text(*v), "a positive number");
  return d;
}

bool is_true(const json::object& o, std::string_view key) {
  const json::value* v = find(o, key);
  return v && v->is_bool() && v->get_bool();
}

Status read_ids(const json::object& o, std::string_view key, uint32_t vocab,
                std::vector<uint32_t>& ids) {
  const json::value* v = find(o, key);
  if (!v) return {};
  json::array list;
  if (v->is_array())
    list = v->get_array();
  else
    list.push_back(*v);
  if (list.size() > 64) return corrupt(key, fmt::format("{} ids", list.size()), "at most 64");
  for (const json::value& id : list) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= int64_t{vocab}) {
      return corrupt(key, short_text(id), fmt::format("0 to {}", vocab - 1));
    }
    const auto n = static_cast<uint32_t>(id.get_int64());
    if (std::find(ids.begin(), ids.end(), n) == ids.end()) ids.push_back(n);
  }
  return {};
}

Status check_architecture(const json::object& o) {
  const json::value* list = find(o, "architectures");
  const json::value* type = find(o, "model_type");
  bool llama = false;
  if (list && list->is_array()) {
    for (const json::value& a : list->get_array()) llama = llama || a == "LlamaForCausalLM";
  } else {
    llama = type && *type == "llama";
  }
  if (!llama) {
    return unsupported("architectures",
                       list   ? short_text(*list)
                       : type ? short_text(*type)
                              : "none",
                       "LlamaForCausalLM");
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (is_true(o, key)) return unsupported(key, "true", "false");
  }
  const json::value* act = find(o, "hidden_act");
  if (act && *act != "silu") return unsupported("hidden_act", short_text(*act), "silu");
  if (find(o, "quantization_config"))
    return unsupported("quantization_config", "one", "plain weights");
  return {};
}

Status read_shape(const json::object& o, ModelShape& s) {
  BP_ASSIGN(s.layers, number(o, "num_hidden_layers", limits::kModelLayersMax));
  BP_ASSIGN(s.hidden, number(o, "hidden_size", limits::kModelWidthMax));
  BP_ASSIGN(s.intermediate, number(o, "intermediate_size", limits::kModelWidthMax));
  BP_ASSIGN(s.heads, number(o, "num_attention_heads", limits::kModelHeadsMax));
  BP_ASSIGN(s.kv_heads, number_or(o, "num_key_value_heads", limits::kModelHeadsMax, s.heads));
  BP_ASSIGN(s.vocab, number(o, "vocab_size", limits::kModelWidthMax));
  if (s.heads % s.kv_heads != 0) {
    return corrupt("num_attention_heads", fmt::format("{} with {} KV heads", s.heads, s.kv_heads),
                   "a multiple of the KV heads");
  }
  if (!find(o, "head_dim") && s.hidden % s.heads != 0) {
    return corrupt("hidden_size", fmt::format("{} with {} heads", s.hidden, s.heads),
                   "a multiple of the heads, or head_dim");
  }
  BP_ASSIGN(s.head_dim, number_or(o, "head_dim", limits::kModelHeadDimMax, s.hidden / s.heads));
  if (s.head_dim < 2 || s.head_dim % 2 != 0) {
    return corrupt("head_dim", std::to_string(s.head_dim), "an even number");
  }
  s.tied_embedding = is_true(o, "tie_word_embeddings");
  return {};
}

/// rope_theta and rope_scaling, or both within rope_parameters as newer files have it.
Status read_rope(const json::object& o, ModelConfig& c) {
  const json::value* nested = find(o, "rope_parameters");
  const json::value* scaling = nested ? nested : find(o, "rope_scaling");
  const json::object& base = nested && nested->is_object() ? nested->get_object() : o;
  BP_ASSIGN(const double outer_theta, real_or(o, "rope_theta", 10000.0));
  BP_ASSIGN(c.rope_theta, real_or(base, "rope_theta", outer_theta));
  if (!scaling) return {};
  if (!scaling->is_object()) return corrupt("rope_scaling", short_text(*scaling), "an object");
  const json::object& s = scaling->get_object();
  const json::value* type = find(s, "rope_type");
  if (!type) type = find(s, "type");
  const std::string name = type && type->is_string() ? std::string(type->get_string()) : "none";
  if (name == "none" || name == "default") return {};
  if (name != "linear" && name != "llama3") {
    return unsupported("rope_scaling", name.substr(0, 32), "linear or llama3");
  }
  RopeScaling& r = c.rope_scaling;
  r.type = name;
  BP_ASSIGN(r.factor, real_or(s, "factor", 1.0));
  BP_ASSIGN(r.low_freq_factor, real_or(s, "low_freq_factor", 1.0));
  BP_ASSIGN(r.high_freq_factor, real_or(s, "high_freq_factor", 4.0));
  BP_ASSIGN(r.original_context, real_or(s, "original_max_position_embeddings", 8192));
  if (r.high_freq_factor <= r.low_freq_factor) {
    return corrupt("rope_scaling.high_freq_factor", fmt::format("{}", r.high_freq_factor),
                   fmt::format("more than low_freq_factor {}", r.low_freq_factor));
  }
  return {};
}

Result<json::object> parse_object(std::string_view text, const char* file) {
  auto v = parse_json_text(text, limits::kModelJsonBytes);
  if (!v.ok()) return std::move(v).error().with_context(file);
  if (!v->is_object()) {
    return Error{
        ErrorCode::kCorruptData, fmt::format("{}: found no JSON object, expected one", file), {}};
  }
  return std::move(v->get_object());
}

}  // namespace

Result<ModelConfig> config_from_json(std::string_view config_json,
                                     std::string_view generation_config_json) {
  BP_ASSIGN(const json::object o, parse_object(config_json, "config.json"));
  BP_TRY(check_architecture(o));
  ModelConfig c;
  c.architecture = "llama";
  BP_TRY(read_shape(o, c.shape));
  BP_ASSIGN(const double eps, real_or(o, "rms_norm_eps", 1e-6));
  c.rms_norm_eps = static_cast<float>(eps);
  BP_TRY(read_rope(o, c));
  BP_ASSIGN(c.max_position, number_or(o, "max_position_embeddings", INT32_MAX, 2048));
  std::vector<uint32_t> bos;
  BP_TRY(read_ids(o, "bos_token_id", c.shape.vocab, bos));
  if (!bos.empty()) c.bos_token = bos[0];
  BP_TRY(read_ids(o, "eos_token_id", c.shape.vocab, c.eos_tokens));
  if (!generation_config_json.empty()) {
    BP_ASSIGN(const json::object g, parse_object(generation_config_json, "generation_config.json"));
    BP_TRY(read_ids(g, "eos_token_id", c.shape.vocab, c.eos_tokens));
  }
  return c;
}

}  // namespace bp::plan
