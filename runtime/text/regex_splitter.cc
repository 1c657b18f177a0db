#include "runtime/text/regex_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "engine/base/check.h"

namespace bp::rt {

struct RegexSplitter::Impl {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  ~Impl() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

RegexSplitter::RegexSplitter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RegexSplitter::~RegexSplitter() = default;

Result<std::unique_ptr<RegexSplitter>> RegexSplitter::compile(const std::string& pattern) {
  auto impl = std::make_unique<Impl>();
  int error = 0;
  PCRE2_SIZE at = 0;
  // NEVER_BACKSLASH_C: a match never ends inside a character.
  uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK;
  impl->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    options & ~static_cast<uint32_t>(PCRE2_NO_UTF_CHECK), &error, &at, nullptr);
  if (!impl->code) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(error, text, sizeof text);
    return Error{
        ErrorCode::kUnsupported,
        fmt::format("tokenizer regex, at byte {}: {}", at, reinterpret_cast<const char*>(text)),
        {}};
  }
  pcre2_jit_compile(impl->code, PCRE2_JIT_COMPLETE);  // without JIT pcre2_match interprets
  impl->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(impl->context, 50'000'000);
  return std::unique_ptr<RegexSplitter>(new RegexSplitter(std::move(impl)));
}

void RegexSplitter::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(impl_->code, nullptr), pcre2_match_data_free);
  BP_CHECK(match != nullptr);
  auto piece = [&](size_t from, size_t to) {
    if (to > from) pieces.push_back(text.substr(from, to - from));
  };
  auto next_character = [&](size_t i) {
    for (++i; i < text.size() && (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80;) ++i;
    return i;
  };
  size_t done = 0, at = 0;  // text before `done` is in pieces; the search goes on at `at`
  while (at < text.size()) {
    int found = pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                            PCRE2_NO_UTF_CHECK, match.get(), impl_->context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {  // match, heap or JIT stack limit
      size_t next = next_character(at);
      piece(done, at);
      piece(at, next);
      done = at = next;
      continue;
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
    if (range[1] <= range[0]) {  // an empty match cuts nothing
      at = next_character(std::max(at, static_cast<size_t>(range[1])));
      continue;
    }
    piece(done, range[0]);
    piece(range[0], range[1]);
    done = at = range[1];
  }
  piece(done, text.size());
}

}  // namespace bp::rt
