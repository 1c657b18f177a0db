// tokenizer.json as the `tokenizers` library writes it: byte-level BPE, and SentencePiece BPE with
// byte fallback. Whatever else is found is refused by name.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>

#include "engine/base/files.h"
#include "engine/base/limits.h"
#include "runtime/text/vocab.h"

namespace bp::rt {
namespace {

namespace json = boost::json;

Error corrupt(const std::string& what) { return Error{ErrorCode::kCorruptData, what, {}}; }
Error unsupported(const std::string& what) { return Error{ErrorCode::kUnsupported, what, {}}; }

Result<json::value> load(const std::string& path) {
  BP_ASSIGN(std::string text, read_file(path, limits::kModelHeaderBytes));
  json::error_code ec;
  json::parse_options options;
  options.max_depth = limits::kJsonDepth;
  json::value v = json::parse(text, ec, {}, options);
  if (ec) return corrupt(fmt::format("{}: {}", path, ec.message()));
  if (!v.is_object()) return corrupt(path + ": found no object");
  return v;
}

const json::value* get(const json::value& v, std::string_view key) {
  return v.is_object() ? v.get_object().if_contains(key) : nullptr;
}
std::string text_of(const json::value& v, std::string_view key) {
  const json::value* found = get(v, key);
  return found && found->is_string() ? std::string(found->get_string()) : "";
}
bool flag(const json::value& v, std::string_view key) {
  const json::value* found = get(v, key);
  return found && found->is_bool() && found->get_bool();
}
int64_t id_of(const json::value& v, size_t limit) {
  if (!v.is_int64() || v.get_int64() < 0 || v.get_int64() >= static_cast<int64_t>(limit)) return -1;
  return v.get_int64();
}

class Reader {
 public:
  explicit Reader(const json::value& root) : root_(root) {}

  Result<Vocab> run() {
    const json::value* model = get(root_, "model");
    if (!model) return corrupt("tokenizer.json: $.model is missing");
    std::string type = text_of(*model, "type");
    if (type != "BPE")
      return unsupported(fmt::format("tokenizer.json: model '{}', expected BPE", type));
    vocab_.model = flag(*model, "byte_fallback") ? Vocab::Model::kScores : Vocab::Model::kByteBpe;
    vocab_.ignore_merges = flag(*model, "ignore_merges");
    BP_TRY(normalizer());
    BP_TRY(entries(*model));
    BP_TRY(merges(*model));
    if (vocab_.model == Vocab::Model::kByteBpe) BP_TRY(pre_tokenizer());
    post_processor();
    return std::move(vocab_);
  }

 private:
  bool byte_level() const { return vocab_.model == Vocab::Model::kByteBpe; }

  Status normalizer() {
    const json::value* n = get(root_, "normalizer");
    if (!n || n->is_null()) return {};
    if (!byte_level() && text_of(*n, "type") == "Sequence") {
      // SentencePiece as Prepend + Replace
      const json::value* parts = get(*n, "normalizers");
      for (const json::value& part :
           parts && parts->is_array() ? parts->get_array() : json::array{}) {
        std::string type = text_of(part, "type");
        if (type == "Prepend")
          vocab_.add_space_prefix = true;
        else if (type != "Replace")
          return unsupported("tokenizer.json: normalizer " + type);
      }
      return {};
    }
    return unsupported(
        fmt::format("tokenizer.json: normalizer '{}', expected none", text_of(*n, "type")));
  }

  Status entries(const json::value& model) {
    const json::value* vocab = get(model, "vocab");
    const json::value* added = get(root_, "added_tokens");
    if (!vocab || !vocab->is_object())
      return corrupt("tokenizer.json: $.model.vocab: expected an object");
    json::array none;
    const json::array& more = added && added->is_array() ? added->get_array() : none;
    size_t limit = vocab->get_object().size() + more.size();
    if (limit > limits::kMetadataArrayMax)
      return corrupt("tokenizer.json: vocabulary beyond 4,000,000 tokens");
    auto put = [&](int64_t id, VocabEntry entry) {
      if (vocab_.entries.size() <= static_cast<size_t>(id)) {
        vocab_.entries.resize(static_cast<size_t>(id) + 1, VocabEntry{"", TokenType::kUnused, 0});
      }
      vocab_.entries[static_cast<size_t>(id)] = std::move(entry);
    };
    for (const auto& [spelled, id_value] : vocab->get_object()) {
      int64_t id = id_of(id_value, limit);
      if (id < 0)
        return corrupt(fmt::format("tokenizer.json: id of '{}': expected below {}",
                                   std::string(spelled), limit));
      VocabEntry e;
      if (!byte_level() || !bytes_from_gpt2(spelled, e.bytes)) e.bytes = spelled;
      if (!byte_level() && e.bytes.size() == 6 && e.bytes.compare(0, 3, "<0x") == 0)
        e.type = TokenType::kByte;
      put(id, std::move(e));
    }
    for (const json::value& token : more) {
      const json::value* id_value = get(token, "id");
      int64_t id = id_value ? id_of(*id_value, limit) : -1;
      if (id < 0)
        return corrupt(fmt::format("tokenizer.json: $.added_tokens: an id is not below {}", limit));
      put(id, {text_of(token, "content"),
               flag(token, "special") ? TokenType::kControl : TokenType::kUserDefined, 0});
    }
    return {};
  }

  Status merges(const json::value& model) {
    const json::value* list = get(model, "merges");
    if (!list || !list->is_array())
      return corrupt("tokenizer.json: $.model.merges: expected an array");
    std::map<std::string, float> scores;
    for (size_t i = 0; i < list->get_array().size(); ++i) {
      const json::value& m = list->get_array()[i];
      std::string left, right;
      if (m.is_string()) {
        std::string both(m.get_string());
        size_t space = both.find(' ', 1);
        if (space != std::string::npos)
          left = both.substr(0, space), right = both.substr(space + 1);
      } else if (m.is_array() && m.get_array().size() == 2 && m.get_array()[0].is_string() &&
                 m.get_array()[1].is_string()) {
        left = m.get_array()[0].get_string(), right = m.get_array()[1].get_string();
      }
      std::string l = left, r = right;
      bool good = !left.empty() && !right.empty();
      if (good && byte_level()) good = bytes_from_gpt2(left, l) && bytes_from_gpt2(right, r);
      if (!good)
        return corrupt(
            fmt::format("tokenizer.json: $.model.merges[{}]: expected two spellings", i));
      // With SentencePiece every pair that makes a token is listed, best first: that order is the
      // score.
      if (byte_level())
        vocab_.merges.emplace_back(std::move(l), std::move(r));
      else
        scores.emplace(l + r, -static_cast<float>(i));
    }
    for (VocabEntry& e : vocab_.entries) {
      auto found = scores.find(e.bytes);
      e.score = found == scores.end() ? -1e9f : found->second;
    }
    return {};
  }

  Status pre_tokenizer() {
    const json::value* p = get(root_, "pre_tokenizer");
    if (!p || p->is_null())
      return unsupported("tokenizer.json: byte-level BPE without pre_tokenizer");
    if (text_of(*p, "type") != "Sequence") return one_pre_tokenizer(*p);
    const json::value* parts = get(*p, "pretokenizers");
    if (!parts || !parts->is_array())
      return corrupt("tokenizer.json: $.pre_tokenizer.pretokenizers: expected an array");
    for (const json::value& part : parts->get_array()) BP_TRY(one_pre_tokenizer(part));
    return {};
  }
  Status one_pre_tokenizer(const json::value& p) {
    std::string type = text_of(p, "type");
    if (type == "ByteLevel") {
      vocab_.add_space_prefix = vocab_.add_space_prefix || flag(p, "add_prefix_space");
      const json::value* regex = get(p, "use_regex");
      if (!regex || !regex->is_bool() || regex->get_bool())
        vocab_.split_patterns.push_back(kGpt2Pattern);
      return {};
    }
    if (type == "Digits") {
      vocab_.split_patterns.push_back(flag(p, "individual_digits") ? R"(\p{N})" : R"(\p{N}+)");
      return {};
    }
    if (type == "Split") {
      std::string behavior = text_of(p, "behavior");
      if (behavior != "Isolated" && !(behavior == "Removed" && flag(p, "invert"))) {
        return unsupported(
            fmt::format("tokenizer.json: Split with behavior '{}', expected Isolated", behavior));
      }
      const json::value* pattern = get(p, "pattern");
      std::string regex = pattern ? text_of(*pattern, "Regex") : "";
      std::string literal = pattern ? text_of(*pattern, "String") : "";
      if (regex.empty() && (literal.empty() || literal.find("\\E") != std::string::npos)) {
        return unsupported("tokenizer.json: Split without a pattern");
      }
      vocab_.split_patterns.push_back(regex.empty() ? "\\Q" + literal + "\\E" : regex);
      return {};
    }
    return unsupported(fmt::format(
        "tokenizer.json: pre_tokenizer '{}', expected ByteLevel, Digits or Split", type));
  }

  void post_processor() {
    const json::value* p = get(root_, "post_processor");
    if (!p || p->is_null()) return;
    if (text_of(*p, "type") == "Sequence") {
      const json::value* parts = get(*p, "processors");
      for (const json::value& part :
           parts && parts->is_array() ? parts->get_array() : json::array{})
        one_processor(part);
    } else {
      one_processor(*p);
    }
  }
  void one_processor(const json::value& p) {
    const json::value* single = get(p, "single");
    if (text_of(p, "type") != "TemplateProcessing" || !single || !single->is_array()) return;
    bool before = true;
    for (const json::value& part : single->get_array()) {
      const json::value* special = get(part, "SpecialToken");
      if (!special) {
        before = false;
        continue;
      }
      std::string name = text_of(*special, "id");
      for (size_t i = 0; i < vocab_.entries.size(); ++i) {
        if (vocab_.entries[i].bytes != name || vocab_.entries[i].type != TokenType::kControl)
          continue;
        if (before)
          vocab_.add_bos = true, vocab_.bos = static_cast<int64_t>(i);
        else
          vocab_.add_eos = true, vocab_.eos = static_cast<int64_t>(i);
      }
    }
  }

  const json::value& root_;
  Vocab vocab_;
};

int64_t find_token(const Vocab& vocab, const std::string& text) {
  for (size_t i = 0; i < vocab.entries.size(); ++i) {
    if (!text.empty() && vocab.entries[i].bytes == text) return static_cast<int64_t>(i);
  }
  return -1;
}

/// tokenizer_config.json: special tokens are texts or {"content": text}.
void read_config(const json::value& config, Vocab& vocab) {
  auto token = [&](const char* key) {
    const json::value* v = get(config, key);
    return find_token(vocab, !v               ? ""
                             : v->is_object() ? text_of(*v, "content")
                                              : text_of(config, key));
  };
  if (vocab.bos < 0) vocab.bos = token("bos_token");
  if (vocab.eos < 0) vocab.eos = token("eos_token");
  if (flag(config, "add_bos_token") && vocab.bos >= 0) vocab.add_bos = true;
  const json::value* chat = get(config, "chat_template");
  if (chat && chat->is_string()) vocab.chat_template = chat->get_string();
  if (chat && chat->is_array()) {
    for (const json::value& named : chat->get_array()) {
      if (text_of(named, "name") == "default") vocab.chat_template = text_of(named, "template");
    }
  }
}

void add_stop(const json::value* ids, Vocab& vocab) {
  if (!ids) return;
  auto one = [&](const json::value& v) {
    int64_t id = id_of(v, vocab.entries.size());
    auto& stops = vocab.stop_tokens;
    if (id >= 0 &&
        std::find(stops.begin(), stops.end(), static_cast<uint32_t>(id)) == stops.end()) {
      stops.push_back(static_cast<uint32_t>(id));
    }
  };
  if (ids->is_array())
    for (const json::value& v : ids->get_array()) one(v);
  else
    one(*ids);
}

}  // namespace

Result<Vocab> vocab_from_json(const std::string& folder) {
  BP_ASSIGN(json::value root, load(folder + "/tokenizer.json"));
  auto vocab = Reader(root).run();
  if (!vocab.ok()) return std::move(vocab).error().with_context(folder);
  // The neighbours are optional; a broken one is an error.
  auto optional = [&](const char* name) -> Result<json::value> {
    auto v = load(folder + "/" + name);
    if (!v.ok() && v.error().code == ErrorCode::kNotFound) return json::value(json::object{});
    return v;
  };
  BP_ASSIGN(json::value config, optional("tokenizer_config.json"));
  read_config(config, *vocab);
  for (const char* name : {"generation_config.json", "config.json"}) {
    BP_ASSIGN(json::value v, optional(name));
    add_stop(get(v, "eos_token_id"), *vocab);
  }
  if (vocab->eos >= 0) add_stop(std::make_unique<json::value>(vocab->eos).get(), *vocab);
  auto chat = read_file(folder + "/chat_template.jinja", 1 << 20);
  if (chat.ok())
    vocab->chat_template = *std::move(chat);
  else if (chat.error().code != ErrorCode::kNotFound)
    return std::move(chat).error();
  return vocab;
}

}  // namespace bp::rt
