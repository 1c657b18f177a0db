// KvMemory: the KV segment of a rank: one page that names what the rest holds, then the KV pool itself. The name
// (given by the head) is what lets a new rank, or the same one in a new generation of its group, go on with what
// stands there. Stream's thread but for found() and trusted ones before the stream starts.
#pragma once
#include <atomic>
#include <cstdint>
#include <span>

#include "runtime/rank/segment.h"

namespace bp::rt {

class KvMemory {
 public:
  static constexpr uint64_t kHeaderBytes = 4096;

  /// Maps `fd` for a pool of `pool_bytes`. With `trusted` a pool that an earlier rank left there keeps its name;
  /// else it is nameless. Errors of Segment::open.
  static Result<KvMemory> open(int fd, uint64_t pool_bytes, bool trusted);

  std::span<std::byte> pool() const { return segment_.bytes().subspan(kHeaderBytes); }
  uint64_t size_bytes() const { return segment_.bytes().size(); }
  /// The pool's name; 0: nothing in it counts.
  uint64_t name() const { return header().pool.load(); }
  /// Before anything is written under the name.
  void set_name(uint64_t name) { header().pool.store(name); }

 private:
  struct Header {
    uint64_t magic;
    std::atomic<uint64_t> pool;
  };
  explicit KvMemory(Segment s) : segment_(std::move(s)) {}
  Header& header() const { return *reinterpret_cast<Header*>(segment_.bytes().data()); }
  Segment segment_;
};

}  // namespace bp::rt
