#include "runtime/tensor/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace bp::rt {

void* map_aligned(int fd, size_t size_bytes, int prot, int flags) {
  const size_t reserved = size_bytes + kHugePageBytes;
  void* room = ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return room;
  auto* begin = static_cast<std::byte*>(room);
  const size_t before = (kHugePageBytes - reinterpret_cast<uintptr_t>(begin) % kHugePageBytes) % kHugePageBytes;
  void* p = ::mmap(begin + before, size_bytes, prot, flags | MAP_FIXED, fd, 0);
  if (p == MAP_FAILED) {
    ::munmap(room, reserved);
    return p;
  }
  constexpr size_t kPage = 4096;
  const size_t end = before + (size_bytes + kPage - 1) / kPage * kPage;
  if (before > 0) ::munmap(begin, before);
  if (end < reserved) ::munmap(begin + end, reserved - end);
  return p;
}

bool use_huge_pages(std::span<std::byte> memory) {
  if (reinterpret_cast<uintptr_t>(memory.data()) % kHugePageBytes != 0) return false;
  const size_t whole = memory.size() / kHugePageBytes * kHugePageBytes;
  if (whole == 0) return false;
  // A range without any page is not collapsed.
  for (size_t at = 0; at < whole; at += kHugePageBytes) {
    auto* first = reinterpret_cast<volatile std::byte*>(memory.data() + at);
    *first = *first;
  }
  return ::madvise(memory.data(), whole, MADV_COLLAPSE) == 0;
}

}  // namespace bp::rt
