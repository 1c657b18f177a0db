// KeyFilter: says fast that an idempotency key is new. A Bloom filter of one cache line a key
// (Putze, Sanders, Singler 2007: blocked), in layers that grow fourfold, three generations of a
// day: so that a clock that jumps by hours, forth and back, hides no key of the last day. False
// positives about 1 in 200; never a false negative. Thread: any.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

namespace bp::storage {

class KeyFilter {
 public:
  /// `hash`: 64 well mixed bits. Times may be out of order by less than a day.
  void add(uint64_t hash, int64_t wall_ms, int64_t generation_ms) {
    std::lock_guard lock(mutex_);
    const int64_t day = wall_ms / generation_ms;
    if (day > newest_) {
      const auto by = size_t(std::min<int64_t>(day - newest_, int64_t(days_.size())));
      std::rotate(days_.begin(), days_.end() - ptrdiff_t(by), days_.end());
      std::fill_n(days_.begin(), by, Layers{});
      newest_ = day;
    }
    days_[size_t(std::min<int64_t>(newest_ - day, int64_t(days_.size()) - 1))].add(hash);
  }
  bool may_contain(uint64_t hash) const {
    std::lock_guard lock(mutex_);
    return std::any_of(days_.begin(), days_.end(),
                       [&](const Layers& day) { return day.contains(hash); });
  }
  /// Set when it holds all keys of the last day: before, its "no" means nothing.
  void set_complete(bool complete) {
    std::lock_guard lock(mutex_);
    complete_ = complete;
  }
  bool complete() const {
    std::lock_guard lock(mutex_);
    return complete_;
  }
  void clear() {
    std::lock_guard lock(mutex_);
    days_.fill(Layers{});
    newest_ = INT64_MIN / 2;
    complete_ = false;
  }

 private:
  static constexpr size_t kFirstBlocks = 1 << 11;  // 128 KiB: 100,000 keys
  static constexpr size_t kKeysPerBlock = 48;      // 512 bits
  static constexpr int kBits = 6;
  struct Layers {
    using Block = std::array<uint64_t, 8>;
    std::vector<std::vector<Block>> layers;
    size_t in_last = 0;
    void add(uint64_t hash) {
      if (layers.empty() || in_last >= layers.back().size() * kKeysPerBlock) {
        layers.emplace_back(layers.empty() ? kFirstBlocks : layers.back().size() * 4);
        in_last = 0;
      }
      ++in_last;
      Block& block = layers.back()[(hash >> 32) & (layers.back().size() - 1)];
      uint64_t bits = hash * 0x9e3779b97f4a7c15u;
      for (int i = 0; i < kBits; ++i, bits >>= 9) block[(bits >> 6) & 7] |= 1ull << (bits & 63);
    }
    bool contains(uint64_t hash) const {
      return std::any_of(layers.begin(), layers.end(), [&](const std::vector<Block>& layer) {
        const Block& block = layer[(hash >> 32) & (layer.size() - 1)];
        uint64_t bits = hash * 0x9e3779b97f4a7c15u;
        for (int i = 0; i < kBits; ++i, bits >>= 9) {
          if (!(block[(bits >> 6) & 7] >> (bits & 63) & 1)) return false;
        }
        return true;
      });
    }
  };
  mutable std::mutex mutex_;
  std::array<Layers, 3> days_;  // the newest first
  int64_t newest_ = INT64_MIN / 2;
  bool complete_ = false;
};

}  // namespace bp::storage
