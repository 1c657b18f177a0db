#include "runtime/comm/step_channel.h"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <poll.h>
#include <thread>

using namespace bp;
using namespace bp::rt;

namespace {

struct Pair {
  std::unique_ptr<RankStepEnd> rank;
  std::unique_ptr<HeadStepEnd> head;
};

Pair make_pair_of(SpinPolicy spin = {}) {
  Pair p;
  p.rank = *RankStepEnd::make(spin);
  p.head = *HeadStepEnd::open(*process_identity(::getpid()), p.rank->memory_fd(), p.rank->bell_fd(), p.rank->nonce());
  return p;
}

std::string text(size_t size, size_t seed) {
  std::string s(size, '\0');
  for (size_t i = 0; i < size; ++i) s[i] = static_cast<char>(i * 31 + seed);
  return s;
}

}  // namespace

TEST_CASE("step channel: messages of every size pass whole and in order, both ways") {
  Pair p = make_pair_of(GENERATE(SpinPolicy{}, SpinPolicy{20'000, 40'000}));
  constexpr size_t kMessages = 400;
  const auto size_of = [](size_t i) { return i * 7919 % 100'000; };   // some megabytes: the ring goes round
  std::thread rank([&] {
    std::string got;
    for (size_t i = 0; i < kMessages; ++i) {
      auto r = p.rank->receive(&got, Deadline::in_ms(5'000));
      if (!r.ok() || !*r || !p.rank->send(got).ok()) return;
    }
  });
  std::string got;
  for (size_t i = 0; i < kMessages; ++i) {
    REQUIRE(p.head->send(text(size_of(i), i)).ok());
    const Deadline deadline = Deadline::in_ms(5'000);
    for (;;) {
      p.head->arm();
      auto there = p.head->try_receive(&got);
      REQUIRE(there.ok());
      if (*there) break;
      REQUIRE(!deadline.passed());
      pollfd bell{p.head->bell_fd(), POLLIN, 0};
      (void)::poll(&bell, 1, 1'000);
      p.head->disarm();
    }
    p.head->disarm();
    REQUIRE(got == text(size_of(i), i));
  }
  rank.join();
}

TEST_CASE("step channel: a full ring, a message too large and a ring beyond its end are refused") {
  Pair p = make_pair_of();
  CHECK(p.head->send(std::string(kStepRingBytes, 'x')).error().code == ErrorCode::kTooLarge);
  Status s;
  for (int i = 0; i < 10 && s.ok(); ++i) s = p.head->send(std::string(kStepRingBytes / 4, 'x'));
  CHECK(s.error().code == ErrorCode::kUnavailable);
  std::string got;
  REQUIRE(*p.rank->receive(&got, Deadline::in_ms(100)));
  CHECK(got.size() == kStepRingBytes / 4);
  // What a broken peer may write: a size that the ring cannot hold, a counter that ran ahead.
  for (const uint64_t nonsense : {uint64_t{1} << 40, kStepRingBytes + uint64_t{1}}) {
    Pair q = make_pair_of();
    REQUIRE(q.rank->send("hello").ok());
    void* at = ::mmap(nullptr, 2 * kStepRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, q.rank->memory_fd(), 0);
    REQUIRE(at != MAP_FAILED);
    auto* words = static_cast<uint64_t*>(at);
    size_t found = 0;
    for (size_t i = 0; i < 2 * kStepRingBytes / 8; ++i) {
      if (words[i] == 13) words[i] = nonsense, ++found;   // bytes written: 8 of size, 5 of text
    }
    ::munmap(at, 2 * kStepRingBytes);
    REQUIRE(found == 1);
    CHECK(q.head->try_receive(&got).error().code == ErrorCode::kProtocol);
  }
}

TEST_CASE("step channel: a wait ends by its deadline and by interrupt") {
  Pair p = make_pair_of();
  std::string got;
  const int64_t begin = monotonic_ns();
  CHECK(!*p.rank->receive(&got, Deadline::in_ms(30)));
  CHECK(monotonic_ns() - begin >= 30'000'000);
  std::thread other([&] {
    ::usleep(20'000);
    p.rank->interrupt();
  });
  CHECK(!*p.rank->receive(&got, Deadline::in_ms(10'000)));
  CHECK(monotonic_ns() - begin < 5'000'000'000);
  other.join();
}

TEST_CASE("step channel: only the memory that was told of is opened") {
  auto rank = *RankStepEnd::make({});
  const ProcessId me = *process_identity(::getpid());
  CHECK(HeadStepEnd::open(me, rank->memory_fd(), rank->bell_fd(), std::string(16, 'x')).error().code ==
        ErrorCode::kCorruptData);
  CHECK(HeadStepEnd::open(me, rank->bell_fd(), rank->bell_fd(), rank->nonce()).error().code ==
        ErrorCode::kCorruptData);
  CHECK(HeadStepEnd::open(me, 9999, rank->bell_fd(), rank->nonce()).error().code == ErrorCode::kNotFound);
  ProcessId another = me;
  another.start_ticks += 1;
  CHECK(HeadStepEnd::open(another, rank->memory_fd(), rank->bell_fd(), rank->nonce()).error().code ==
        ErrorCode::kNotFound);
}
