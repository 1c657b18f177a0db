// Memory files in pages of 2 MiB: reading weights then misses no page table (6 % of decoding). memfds get them
// neither by mmap's choice of address nor, as systems are set up, by madvise(MADV_HUGEPAGE).
#pragma once
#include <cstddef>
#include <span>

namespace bp::rt {

inline constexpr size_t kHugePageBytes = size_t{2} << 20;

/// As mmap(nullptr, size, prot, flags, fd, 0), at an address that is a multiple of kHugePageBytes.
/// MAP_FAILED and errno as mmap.
void* map_aligned(int fd, size_t size_bytes, int prot, int flags);

/// Asks the system to back all whole huge pages of a writable shared mapping that nobody uses yet by such
/// pages (MADV_COLLAPSE, Linux 6.1). Allocates them. False when it cannot: small pages serve as well.
bool use_huge_pages(std::span<std::byte> memory);

}  // namespace bp::rt
