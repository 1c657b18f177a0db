#include "runtime/rank/segment.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "engine/base/fd.h"

using namespace bp;
using namespace bp::rt;

namespace {
Fd memory() {
  Fd fd(::memfd_create("segment", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  REQUIRE(fd);
  return fd;
}
}  // namespace

TEST_CASE("segment: gets its size once, and keeps what is written for the next rank") {
  Fd fd = memory();
  {
    auto s = Segment::open(fd.get(), 10'000, "weights");
    REQUIRE(s.ok());
    CHECK(!s->write_sealed());
    s->bytes()[9'999] = std::byte(7);
  }
  auto again = Segment::open(fd.get(), 10'000, "weights");
  REQUIRE(again.ok());
  CHECK(again->bytes()[9'999] == std::byte(7));
  CHECK(::ftruncate(fd.get(), 5'000) != 0);
  auto other = Segment::open(fd.get(), 20'000, "weights");
  REQUIRE(!other.ok());
  CHECK(other.error().code == ErrorCode::kConflict);
  CHECK(other.error().message.find("10000") != std::string::npos);
}

TEST_CASE("segment: sealed against writing it stays as it is, whoever opens it") {
  Fd fd = memory();
  {
    auto s = Segment::open(fd.get(), 8'192, "weights");
    REQUIRE(s.ok());
    s->bytes()[0] = std::byte(1);
    REQUIRE(s->seal_writes().ok());
  }
  char b = 9;
  CHECK(::pwrite(fd.get(), &b, 1, 0) < 0);
  CHECK(::mmap(nullptr, 8'192, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0) == MAP_FAILED);
  auto s = Segment::open(fd.get(), 8'192, "weights");
  REQUIRE(s.ok());
  CHECK(s->write_sealed());
  s->bytes()[0] = std::byte(2);   // a private view: nobody else sees it
  auto third = Segment::open(fd.get(), 8'192, "weights");
  REQUIRE(third.ok());
  CHECK(third->bytes()[0] == std::byte(1));
  CHECK(third->seal_writes().ok());
}

TEST_CASE("segment: what is no sealable memory is refused by name") {
  Fd fd(::memfd_create("no seals", MFD_CLOEXEC));
  auto s = Segment::open(fd.get(), 4'096, "kv");
  REQUIRE(!s.ok());
  CHECK(s.error().message.find("kv") != std::string::npos);
  CHECK(!Segment::open(999, 4'096, "kv").ok());
  Fd good = memory();
  CHECK(!Segment::open(good.get(), 0, "kv").ok());
}
