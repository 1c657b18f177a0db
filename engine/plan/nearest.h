// Nearest known name by edit distance, for "did you mean". Pure.
#pragma once
#include <cstddef>
#include <string_view>
#include <vector>

namespace bp::plan {

/// Levenshtein distance, upper and lower case taken as equal.
size_t edit_distance(std::string_view a, std::string_view b);

/// The known name with the smallest distance, if that is at most `max_distance`; else empty.
/// Names beyond 128 characters are nearest to nothing.
std::string_view nearest_name(std::string_view name, const std::vector<std::string_view>& known,
                              size_t max_distance);

}  // namespace bp::plan
