#include "runtime/rank/lease.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "engine/base/fd.h"

using namespace bp;
using namespace bp::rt;

namespace {

constexpr int64_t kMs = 1'000'000;

Fd page(int64_t size = LeasePage::kSize) {
  Fd fd(::memfd_create("lease", MFD_CLOEXEC));
  REQUIRE(::ftruncate(fd.get(), size) == 0);
  return fd;
}

v1::Lease lease(uint64_t number, uint64_t acked) {
  v1::Lease l;
  l.set_number(number);
  l.set_lease_ms(1'000);
  l.set_acked(acked);
  return l;
}

}  // namespace

TEST_CASE("rank lease: the first runs from its receipt, later ones from the ack that the head had seen") {
  Fd fd = page();
  auto l = RankLease::open(fd.get());
  REQUIRE(l.ok());
  CHECK(!l->held());
  CHECK(!l->valid(0));
  l->renew(lease(1, 0), 100 * kMs);
  CHECK(l->deadline_ns() == 1'100 * kMs);
  l->note_ack(1, 100 * kMs);
  l->renew(lease(2, 1), 350 * kMs);
  CHECK(l->deadline_ns() == 1'100 * kMs);   // it was sent on the strength of the ack of 100 ms
  l->note_ack(2, 350 * kMs);
  l->renew(lease(3, 2), 600 * kMs);
  CHECK(l->deadline_ns() == 1'350 * kMs);
  CHECK(l->valid(1'349 * kMs));
  CHECK(!l->valid(1'350 * kMs));
}

TEST_CASE("rank lease: renewals that waited in a queue give no time") {
  Fd fd = page();
  auto l = RankLease::open(fd.get());
  REQUIRE(l.ok());
  l->renew(lease(1, 0), 0);
  l->note_ack(1, 0);
  // The process was stopped; at 5 s it reads what the head sent meanwhile.
  for (uint64_t n = 2; n < 6; ++n) l->renew(lease(n, 1), 5'000 * kMs);
  CHECK(!l->valid(5'000 * kMs));
  l->renew(lease(6, 0), 5'000 * kMs);        // nor does one that names no ack
  CHECK(!l->valid(5'000 * kMs));
  l->renew(lease(7, 99), 5'000 * kMs);       // nor one that names an ack never sent
  CHECK(!l->valid(5'000 * kMs));
}

TEST_CASE("rank lease: a page that is too small is refused") {
  Fd fd = page(100);
  auto l = RankLease::open(fd.get());
  REQUIRE(!l.ok());
  CHECK(l.error().code == ErrorCode::kInvalidArgument);
}
