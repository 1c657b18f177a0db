// Epoch: fencing number (incarnation, counter). Whoever sees an older epoch refuses it.
// The incarnation grows with every restore or copy of the journal, the counter with every new
// generation of attempt, node or rank of one deployment.
#pragma once
#include <compare>
#include <cstdint>
#include <string>

namespace bp {
struct Epoch {
  uint64_t incarnation = 0;
  uint64_t counter = 0;
  auto operator<=>(const Epoch&) const = default;
  /// "1.42"
  std::string to_string() const {
    return std::to_string(incarnation) + "." + std::to_string(counter);
  }
};
}  // namespace bp
