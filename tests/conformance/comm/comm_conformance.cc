// What every communicator must do, whatever carries its bytes.
#include <catch2/catch.hpp>

#include <atomic>
#include <numeric>

#include "tests/conformance/comm/comm_fixture.h"

using namespace bp;
using namespace bp::rt;
using namespace bp::rt::test;

namespace {

Deadline soon() { return Deadline::in_ms(10'000); }

Status expect(bool ok, const char* what) {
  if (ok) return {};
  return Error{ErrorCode::kInternal, what, {}};
}
#define EXPECT(cond) BP_TRY(expect(cond, #cond))

void check_all(const std::vector<Status>& all) {
  for (size_t r = 0; r < all.size(); ++r) {
    INFO("rank " << r);
    if (!all[r].ok()) FAIL(all[r].error().to_string());
  }
}

std::byte pattern(uint32_t rank, size_t i) { return static_cast<std::byte>((rank * 37 + i * 11 + i / 251) & 0xff); }

struct Kind { const char* name; uint32_t size; };

}  // namespace

TEST_CASE("communicators: gather, reduce, broadcast and barrier give the right bytes at every size") {
  auto kind = GENERATE(Kind{"shm", 2}, Kind{"shm", 5}, Kind{"tcp", 2}, Kind{"tcp", 4}, Kind{"hybrid", 4});
  INFO(kind.name << " " << kind.size);
  GroupMaker maker(kind.name, kind.size);
  check_all(maker.run([](Communicator& c) -> Status {
    for (size_t base : {0, 1, 100, 4096, 5000, 70'000, 300'001}) {
      // Uneven: rank r gives base + r bytes, the last one nothing.
      std::vector<size_t> counts(c.size());
      for (uint32_t r = 0; r < c.size(); ++r) counts[r] = r + 1 == c.size() ? 0 : base + r;
      std::vector<std::byte> mine(counts[c.rank()]);
      for (size_t i = 0; i < mine.size(); ++i) mine[i] = pattern(c.rank(), i);
      std::vector<std::byte> out(std::accumulate(counts.begin(), counts.end(), size_t{0}));
      BP_TRY(c.all_gather_v(mine, counts, out, soon()));
      size_t at = 0;
      for (uint32_t r = 0; r < c.size(); ++r) {
        for (size_t i = 0; i < counts[r]; ++i, ++at) EXPECT(out[at] == pattern(r, i));
      }
      std::vector<int64_t> sum(base / 8 + 1);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] = int64_t(i) * 1'000'003 - c.rank() * 7 - (int64_t{1} << 61);
      BP_TRY(c.all_reduce_i64(sum, soon()));
      for (size_t i = 0; i < sum.size(); ++i) {
        uint64_t want = 0;
        for (uint32_t r = 0; r < c.size(); ++r) {
          want += static_cast<uint64_t>(int64_t(i) * 1'000'003 - r * 7 - (int64_t{1} << 61));
        }
        EXPECT(sum[i] == static_cast<int64_t>(want));
      }
      for (uint32_t root = 0; root < c.size(); ++root) {
        std::vector<std::byte> b(base);
        if (root == c.rank()) for (size_t i = 0; i < base; ++i) b[i] = pattern(root, i);
        BP_TRY(c.broadcast(b, root, soon()));
        for (size_t i = 0; i < base; ++i) EXPECT(b[i] == pattern(root, i));
      }
      BP_TRY(c.barrier(soon()));
    }
    EXPECT(c.epoch() == kEpoch);
    return {};
  }));
}

TEST_CASE("communicators: an in-place gather keeps this rank's part") {
  GroupMaker maker(GENERATE("shm", "tcp"), 2);
  check_all(maker.run([](Communicator& c) -> Status {
    std::vector<std::byte> all(20);
    auto mine = std::span(all).subspan(c.rank() * 10, 10);
    for (auto& b : mine) b = std::byte(c.rank() + 1);
    std::vector<size_t> counts{10, 10};
    BP_TRY(c.all_gather_v(mine, counts, all, soon()));
    for (size_t i = 0; i < 20; ++i) EXPECT(all[i] == std::byte(i / 10 + 1));
    return {};
  }));
}

TEST_CASE("communicators: messages of a pair arrive in order, and small ones do not wait for the receiver") {
  std::string kind = GENERATE("shm", "tcp");
  GroupMaker maker(kind, 2);
  std::atomic<bool> all_sent{false};
  check_all(maker.run([&](Communicator& c) -> Status {
    for (uint32_t i = 0; i < 50; ++i) {
      std::vector<std::byte> m(i % 7 * 3, std::byte(i));
      if (c.rank() == 0) {
        BP_TRY(c.send(m, 1, soon()));
        if (i == 49) all_sent = true;
        continue;
      }
      while (!all_sent) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::vector<std::byte> got(m.size());
      BP_TRY(c.recv(got, 0, soon()));
      EXPECT(got == m);
    }
    return {};
  }));
  GroupMaker again(kind, 2);
  check_all(again.run([](Communicator& c) -> Status {
    for (uint32_t i = 0; i < 500; ++i) {
      std::vector<std::byte> m(i % 7 * 300, std::byte(i));
      if (c.rank() == 0) {
        BP_TRY(c.send(m, 1, soon()));
      } else {
        std::vector<std::byte> got(m.size());
        BP_TRY(c.recv(got, 0, soon()));
        EXPECT(got == m);
      }
    }
    return {};
  }));
}

TEST_CASE("communicators: ranks that do different things are told so") {
  GroupMaker maker(GENERATE("shm", "tcp"), 2);
  auto all = maker.run([](Communicator& c) -> Status {
    std::vector<std::byte> b(c.rank() == 0 ? 10 : 12);
    return c.rank() == 0 ? c.send(b, 1, soon()) : c.recv(b, 0, soon());
  });
  REQUIRE(!all[1].ok());
  CHECK(all[1].error().code == ErrorCode::kProtocol);
  CHECK(all[1].error().message.find("10 bytes") != std::string::npos);
  CHECK(all[1].error().message.find("12 bytes") != std::string::npos);
}

TEST_CASE("communicators: a deadline names operation, number, epoch and the rank waited for") {
  GroupMaker maker(GENERATE("shm", "tcp", "hybrid"), 4);
  std::atomic<int> waiting{3};
  auto all = maker.run([&](Communicator& c) -> Status {
    BP_TRY(c.barrier(soon()));
    if (c.rank() == 3) {
      while (waiting > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return {};
    }
    Status s = c.barrier(Deadline::in_ms(100));
    --waiting;
    while (waiting > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return s;
  });
  for (int r = 0; r < 3; ++r) {
    REQUIRE(!all[r].ok());
    CHECK(all[r].error().code == ErrorCode::kDeadlineExceeded);
    CHECK(all[r].error().message.find("tp barrier 2 of epoch 1.7") != std::string::npos);
    CHECK(all[r].error().message.find("waited for rank 3") != std::string::npos);
  }
}

TEST_CASE("communicators: abort from another thread ends a wait at once and stays") {
  GroupMaker maker(GENERATE("shm", "tcp", "hybrid"), 3);
  auto all = maker.run([](Communicator& c) -> Status {
    if (c.rank() != 1) {
      std::byte b{};
      return c.recv({&b, 1}, 1, soon());   // ends when rank 1 leaves
    }
    std::thread aborter([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      c.abort();
    });
    int64_t begin = monotonic_ns();
    std::byte b{};
    Status s = c.recv({&b, 1}, 0, soon());
    int64_t took_ms = (monotonic_ns() - begin) / 1'000'000;
    aborter.join();
    EXPECT(took_ms < 1'000);
    EXPECT(!c.barrier(soon()).ok());
    return s;
  });
  REQUIRE(!all[1].ok());
  CHECK(all[1].error().code == ErrorCode::kStaleEpoch);
  for (int r : {0, 2}) {
    REQUIRE(!all[r].ok());
    CHECK(all[r].error().code == ErrorCode::kPeerLost);
    CHECK(all[r].error().message.find("rank 1") != std::string::npos);
  }
}

TEST_CASE("communicators: what a rank sent before it left still arrives") {
  GroupMaker maker(GENERATE("shm", "tcp"), 2);
  auto all = maker.run([](Communicator& c) -> Status {
    std::vector<std::byte> b(2'000, std::byte(5));
    if (c.rank() == 0) return c.send(b, 1, soon());
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    std::vector<std::byte> got(2'000);
    BP_TRY(c.recv(got, 0, soon()));
    EXPECT(got == b);
    return c.recv(got, 0, soon());
  });
  CHECK(all[0].ok());
  REQUIRE(!all[1].ok());
  CHECK(all[1].error().code == ErrorCode::kPeerLost);
}

TEST_CASE("communicators: more ranks than cores make progress") {
  GroupMaker maker("shm", 12);
  check_all(maker.run([](Communicator& c) -> Status {
    std::vector<int64_t> v(576);
    for (int i = 0; i < 100; ++i) {
      std::fill(v.begin(), v.end(), i);
      BP_TRY(c.all_reduce_i64(v, soon()));
      EXPECT(v[575] == 12 * i);
    }
    return {};
  }));
}

TEST_CASE("communicators: a group of one needs nobody") {
  auto c = make_solo_communicator(kEpoch);
  std::vector<int64_t> v{1, 2, 3};
  REQUIRE(c->all_reduce_i64(v, soon()).ok());
  CHECK(v == std::vector<int64_t>{1, 2, 3});
  std::vector<std::byte> mine(3, std::byte(9)), out(3);
  std::vector<size_t> counts{3};
  REQUIRE(c->all_gather_v(mine, counts, out, soon()).ok());
  CHECK(out == mine);
  c->abort();
  CHECK(c->barrier(soon()).error().code == ErrorCode::kStaleEpoch);
}
