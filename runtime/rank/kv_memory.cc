#include "runtime/rank/kv_memory.h"

namespace bp::rt {
namespace {
constexpr uint64_t kMagic = 0x4250'4b56'504f'4f31;  // "BPKVPOO1"
}  // namespace

Result<KvMemory> KvMemory::open(int fd, uint64_t pool_bytes, bool trusted) {
  BP_ASSIGN(Segment segment, Segment::open(fd, kHeaderBytes + pool_bytes, "kv"));
  KvMemory kv(std::move(segment));
  if (!trusted || kv.header().magic != kMagic) kv.header().pool.store(0);
  kv.header().magic = kMagic;
  return kv;
}

}  // namespace bp::rt
