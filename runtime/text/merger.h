// Merger: joins neighbouring symbols of one piece of text by priority until none is left, in
// O(n log n). Both kinds of BPE are this with another `Lookup`.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace bp::rt {

struct Symbol {
  uint32_t from = 0;  // bytes [from, from + size) of the piece
  uint32_t size = 0;
  int64_t token = -1;  // -1: not a token by itself
};

struct Merge {
  int64_t priority = 0;  // the lowest is done first; equal ones from left to right
  int64_t token = -1;
};

/// What two neighbours become; nothing when they do not merge.
using MergeLookup = std::function<std::optional<Merge>(const Symbol& left, const Symbol& right)>;

/// Symbols in order, joined.
std::vector<Symbol> merge_symbols(std::vector<Symbol> symbols, const MergeLookup& lookup);

}  // namespace bp::rt
