#include "runtime/rank/lease.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "engine/base/limits.h"

namespace bp::rt {
namespace {
constexpr size_t kAcksKept = 16;
}

Result<RankLease> RankLease::open(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return errno_error("lease page (fd " + std::to_string(fd) + ")", errno);
  if (static_cast<uint64_t>(st.st_size) < LeasePage::kSize) {
    return Error{ErrorCode::kInvalidArgument,
                 "the lease page has " + std::to_string(st.st_size) + " bytes, expected " +
                     std::to_string(LeasePage::kSize),
                 {}};
  }
  void* p = ::mmap(nullptr, LeasePage::kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return errno_error("map the lease page", errno);
  auto* page = static_cast<LeasePage*>(p);
  page->deadline_ns.store(0);
  page->magic.store(LeasePage::kMagic);
  return RankLease(page);
}

RankLease::~RankLease() {
  if (page_) ::munmap(page_, LeasePage::kSize);
}

void RankLease::renew(const v1::Lease& lease, int64_t now_ns) {
  int64_t from = now_ns;
  if (lease.acked() != 0) {
    auto at = acks_.find(lease.acked());
    if (at == acks_.end()) return;  // of an ack too old to count
    from = at->second;
  } else if (held()) {
    return;  // only the first lease runs from its receipt
  }
  const int64_t ms = std::clamp<int64_t>(lease.lease_ms(), 0, limits::kRankLeaseMs * 30);
  page_->deadline_ns.store(std::max(page_->deadline_ns.load(), from + ms * 1'000'000));
}

void RankLease::note_ack(uint64_t number, int64_t now_ns) {
  acks_[number] = now_ns;
  if (acks_.size() > kAcksKept) acks_.erase(acks_.begin());
}

}  // namespace bp::rt
