#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/fd.h"
#include "engine/plan/model_header.h"
#include "runtime/text/vocab.h"

namespace bp::rt {
namespace {

using plan::GgufHeader;

Result<GgufHeader> read_header(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_error(path, errno);
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return errno_error(path, errno);
  auto size = static_cast<uint64_t>(st.st_size);
  auto read_at = [&](uint64_t offset, uint64_t n) -> Result<std::string> {
    std::string out(n, '\0');
    size_t done = 0;
    while (done < n) {
      ssize_t got =
          ::pread(fd.get(), out.data() + done, n - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno_error(path, errno);
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    out.resize(done);
    return out;
  };
  auto header = plan::parse_gguf(read_at, size);
  if (!header.ok()) return std::move(header).error().with_context(path);
  return header;
}

template <class T>
const T* find(const GgufHeader& h, const char* key) {
  auto it = h.meta.find(key);
  return it == h.meta.end() ? nullptr : std::get_if<T>(&it->second);
}

/// An unsigned or signed integer key; -1 when absent.
int64_t integer(const GgufHeader& h, const char* key) {
  if (auto* u = find<uint64_t>(h, key))
    return static_cast<int64_t>(std::min<uint64_t>(*u, INT64_MAX));
  if (auto* i = find<int64_t>(h, key)) return *i;
  return -1;
}
bool boolean(const GgufHeader& h, const char* key, bool absent) {
  auto* b = find<bool>(h, key);
  return b ? *b : absent;
}

Error corrupt(const std::string& path, const std::string& what) {
  return Error{ErrorCode::kCorruptData, path + ": " + what, {}};
}

TokenType type_of(int64_t gguf) {
  switch (gguf) {
    case 2:
      return TokenType::kUnknown;
    case 3:
      return TokenType::kControl;
    case 4:
      return TokenType::kUserDefined;
    case 5:
      return TokenType::kUnused;
    case 6:
      return TokenType::kByte;
    default:
      return TokenType::kNormal;
  }
}

Status fill_entries(const GgufHeader& h, const std::string& path, Vocab& vocab) {
  auto* tokens = find<std::vector<std::string>>(h, "tokenizer.ggml.tokens");
  if (!tokens || tokens->empty())
    return corrupt(path, "tokenizer.ggml.tokens: found nothing, expected strings");
  auto* types = find<std::vector<int64_t>>(h, "tokenizer.ggml.token_type");
  auto* scores = find<std::vector<double>>(h, "tokenizer.ggml.scores");
  if (types && types->size() != tokens->size()) {
    return corrupt(path, fmt::format("tokenizer.ggml.token_type: found {} entries, expected {}",
                                     types->size(), tokens->size()));
  }
  bool by_scores = vocab.model == Vocab::Model::kScores;
  if (by_scores && (!scores || scores->size() != tokens->size())) {
    return corrupt(path, fmt::format("tokenizer.ggml.scores: found {} entries, expected {}",
                                     scores ? scores->size() : 0, tokens->size()));
  }
  vocab.entries.resize(tokens->size());
  for (size_t i = 0; i < tokens->size(); ++i) {
    VocabEntry& e = vocab.entries[i];
    e.type = types ? type_of((*types)[i]) : TokenType::kNormal;
    if (by_scores) e.score = static_cast<float>((*scores)[i]);
    bool spelled = !by_scores && e.type != TokenType::kControl && e.type != TokenType::kUserDefined;
    if (!spelled || !bytes_from_gpt2((*tokens)[i], e.bytes)) e.bytes = (*tokens)[i];
  }
  return {};
}

Status fill_merges(const GgufHeader& h, const std::string& path, Vocab& vocab) {
  auto* merges = find<std::vector<std::string>>(h, "tokenizer.ggml.merges");
  if (!merges) return corrupt(path, "tokenizer.ggml.merges: found nothing, expected strings");
  vocab.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const std::string& m = (*merges)[i];
    size_t space = m.find(' ', 1);
    std::string left, right;
    if (space == std::string::npos ||
        !bytes_from_gpt2(std::string_view(m).substr(0, space), left) ||
        !bytes_from_gpt2(std::string_view(m).substr(space + 1), right)) {
      return corrupt(
          path, fmt::format("tokenizer.ggml.merges[{}]: found '{}', expected two byte spellings", i,
                            m.substr(0, 64)));
    }
    vocab.merges.emplace_back(std::move(left), std::move(right));
  }
  return {};
}

/// The ends of a turn: the declared ones, and control tokens that are ends by their well-known
/// names.
void fill_stop_tokens(const GgufHeader& h, Vocab& vocab) {
  auto add = [&](int64_t id) {
    if (id < 0 || id >= static_cast<int64_t>(vocab.entries.size())) return;
    auto token = static_cast<uint32_t>(id);
    auto& stops = vocab.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token) == stops.end()) stops.push_back(token);
  };
  add(vocab.eos);
  add(integer(h, "tokenizer.ggml.eot_token_id"));
  add(integer(h, "tokenizer.ggml.eom_token_id"));
  for (size_t i = 0; i < vocab.entries.size(); ++i) {
    const VocabEntry& e = vocab.entries[i];
    if (e.type != TokenType::kControl) continue;
    for (const char* end : {"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"}) {
      if (e.bytes == end) add(static_cast<int64_t>(i));
    }
  }
}

}  // namespace

Result<Vocab> vocab_from_gguf(const std::string& path) {
  BP_ASSIGN(GgufHeader h, read_header(path));
  auto* model = find<std::string>(h, "tokenizer.ggml.model");
  if (!model)
    return corrupt(path, "tokenizer.ggml.model: found nothing, expected 'gpt2' or 'llama'");
  Vocab vocab;
  if (*model == "llama") {
    vocab.model = Vocab::Model::kScores;
    vocab.add_space_prefix = boolean(h, "tokenizer.ggml.add_space_prefix", true);
  } else if (*model != "gpt2") {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: tokenizer.ggml.model: found '{}', expected 'gpt2' or 'llama'",
                             path, model->substr(0, 64)),
                 {}};
  }
  BP_TRY(fill_entries(h, path, vocab));
  bool bos_by_default = vocab.model == Vocab::Model::kScores;
  if (vocab.model == Vocab::Model::kByteBpe) {
    BP_TRY(fill_merges(h, path, vocab));
    auto* pre = find<std::string>(h, "tokenizer.ggml.pre");
    auto patterns = split_patterns_of(pre ? *pre : "default");
    if (!patterns.ok()) return std::move(patterns).error().with_context(path);
    vocab.split_patterns = *std::move(patterns);
    bool llama3 = pre && (*pre == "llama-bpe" || *pre == "llama3" || *pre == "llama-v3");
    vocab.ignore_merges = bos_by_default = llama3;
    vocab.add_space_prefix = boolean(h, "tokenizer.ggml.add_space_prefix", false);
  }
  vocab.bos = integer(h, "tokenizer.ggml.bos_token_id");
  vocab.eos = integer(h, "tokenizer.ggml.eos_token_id");
  for (int64_t id : {vocab.bos, vocab.eos}) {
    if (id >= static_cast<int64_t>(vocab.entries.size())) {
      return corrupt(path, fmt::format("bos or eos token: found {}, expected below {}", id,
                                       vocab.entries.size()));
    }
  }
  vocab.add_bos = boolean(h, "tokenizer.ggml.add_bos_token", bos_by_default) && vocab.bos >= 0;
  vocab.add_eos = boolean(h, "tokenizer.ggml.add_eos_token", false) && vocab.eos >= 0;
  fill_stop_tokens(h, vocab);
  if (auto* text = find<std::string>(h, "tokenizer.chat_template")) vocab.chat_template = *text;
  return vocab;
}

}  // namespace bp::rt
