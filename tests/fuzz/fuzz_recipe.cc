// Any text is a valid recipe or has problems, never both; its secret shows nowhere.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/plan/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto parsed = bp::plan::parse_recipe(text);
  if (parsed.ok() &&
      (parsed.recipe.node_pool_size() == 0 || parsed.recipe.canonical_name().empty()))
    std::abort();
  const std::string problems = bp::plan::format_problems(parsed.problems);
  for (const auto& [name, secret] : parsed.secrets) {
    const std::string& url = secret.reveal();
    const size_t token = url.find("/p/") + 3;
    const std::string_view part = std::string_view(url).substr(token, url.find('/', token) - token);
    if (part.size() >= 16 && problems.find(part) != std::string::npos) std::abort();
    if (parsed.recipe.json_redacted().find(url) != std::string::npos) std::abort();
  }
  (void)bp::plan::fill_pars(text, {bp::Secret("x")});
  return 0;
}
