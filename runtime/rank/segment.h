// Segment: memory that bp-node owns and hands to the rank, so that it outlives it. See README.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "engine/base/result.h"

namespace bp::rt {

class Segment {
 public:
  /// Gives the memfd its size unless it has it (kConflict: it is sealed with another one), seals it
  /// against resizing, and maps it. `name` is for errors.
  static Result<Segment> open(int fd, uint64_t size_bytes, std::string name);
  Segment(Segment&& o) noexcept;
  Segment& operator=(Segment&&) = delete;
  ~Segment();

  std::span<std::byte> bytes() const { return bytes_; }
  /// It was sealed against writing by an earlier rank: what is mapped is a private view of it, which
  /// this rank must find complete.
  bool write_sealed() const { return write_sealed_; }
  /// Seals it against writing for ever, and makes this rank's own view read-only.
  Status seal_writes();

 private:
  Segment(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  int fd_;
  std::string name_;
  std::span<std::byte> bytes_;
  bool write_sealed_ = false;
};

}  // namespace bp::rt
