#include "engine/cli/text_diff.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "engine/base/check.h"

namespace bp::cli {
namespace {

constexpr size_t kContext = 3;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(std::move(line));
  return lines;
}

}  // namespace

std::string definition_text(const v1::WorkflowDefinition& definition) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  BP_CHECK(google::protobuf::util::MessageToJsonString(definition, &text, options).ok());
  if (text.empty() || text.back() != '\n') text += '\n';
  return text;
}

std::string line_diff(const std::string& a_text, const std::string& b_text) {
  if (a_text == b_text) return {};
  const auto a = lines_of(a_text), b = lines_of(b_text);
  // length[i][j]: of the longest common subsequence of a[i..] and b[j..].
  std::vector<std::vector<uint32_t>> length(a.size() + 1, std::vector<uint32_t>(b.size() + 1, 0));
  for (size_t i = a.size(); i-- > 0;) {
    for (size_t j = b.size(); j-- > 0;) {
      length[i][j] =
          a[i] == b[j] ? length[i + 1][j + 1] + 1 : std::max(length[i + 1][j], length[i][j + 1]);
    }
  }
  std::vector<std::string> out;
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    if (i < a.size() && j < b.size() && a[i] == b[j]) {
      out.push_back("  " + a[i++]);
      ++j;
    } else if (j == b.size() || (i < a.size() && length[i + 1][j] >= length[i][j + 1])) {
      out.push_back("- " + a[i++]);
    } else {
      out.push_back("+ " + b[j++]);
    }
  }
  std::string text;
  size_t skipped = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    bool near = false;
    for (size_t k = i > kContext ? i - kContext : 0; k < std::min(out.size(), i + kContext + 1);
         ++k)
      near = near || out[k][0] != ' ';
    if (!near) {
      ++skipped;
      continue;
    }
    if (std::exchange(skipped, 0) > 0) text += "...\n";
    text += out[i] + "\n";
  }
  return text;
}

}  // namespace bp::cli
