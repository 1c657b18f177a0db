// Definitions as text for people, and the difference between two texts by lines.
#pragma once
#include <string>

#include "bp/v1/journal.pb.h"

namespace bp::cli {

/// JSON as a file for `bp workflow register` has it: indented, unset fields left out, ends with a
/// newline.
std::string definition_text(const v1::WorkflowDefinition& definition);
/// Lines with "- ", "+ " or "  " before them, up to three equal lines around each change; empty
/// when the texts are equal. By the longest common subsequence; texts of at most some thousand
/// lines.
std::string line_diff(const std::string& a, const std::string& b);

}  // namespace bp::cli
