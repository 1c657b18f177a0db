// What communicators must refuse: wrong keys, other epochs, changed bytes, strangers, dead peers.
#include <arpa/inet.h>
#include <catch2/catch.hpp>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "runtime/comm/tcp_link.h"
#include "tests/conformance/comm/comm_fixture.h"

using namespace bp;
using namespace bp::rt;
using namespace bp::rt::test;

namespace {

Deadline soon() { return Deadline::in_ms(10'000); }

Fd dial_plain(const std::string& endpoint) {
  auto colon = endpoint.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint.substr(colon + 1))));
  ::inet_pton(AF_INET, endpoint.substr(0, colon).c_str(), &to.sin_addr);
  Fd s(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(s.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
  return s;
}

struct LinkPair { std::unique_ptr<Link> a; Fd raw; LinkKeys keys; };

/// A link whose other end is a bare socket, with the keys that the other end would have.
LinkPair half_link() {
  auto d = *Handshake::make(Secret(std::string(32, 'k')));
  auto a = *Handshake::make(Secret(std::string(32, 'k')));
  REQUIRE(a.read_hello(d.make_hello({1, 0, 1, kEpoch})).ok());
  auto proof = d.make_proof(a.make_answer());
  REQUIRE(proof.ok());
  REQUIRE(a.read_proof(*proof).ok());
  int s[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0);
  return {make_tcp_link(Fd(s[0]), a.keys(false), "rank 1"), Fd(s[1]), d.keys(true)};
}

/// What a link made with `keys` puts on its socket for `text`.
std::string sealed(const LinkKeys& keys, const std::string& text) {
  int s[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0);
  Fd other(s[1]);
  auto link = make_tcp_link(Fd(s[0]), keys, "x");
  REQUIRE(link->try_write(std::as_bytes(std::span(text)), false).ok());
  std::string out(1000, '\0');
  ssize_t n = ::read(other.get(), out.data(), out.size());
  REQUIRE(n > 0);
  out.resize(static_cast<size_t>(n));
  return out;
}

}  // namespace

TEST_CASE("tcp: a rank with another key is refused, and both sides say so") {
  GroupMaker maker("tcp", 2);
  maker.connect_ms = 400;
  maker.keys[1] = Secret(std::string(32, 'x'));
  auto all = maker.run([](Communicator& c) { return c.barrier(soon()); });
  REQUIRE(!all[0].ok());
  CHECK(all[0].error().code == ErrorCode::kDeadlineExceeded);
  CHECK(all[0].error().message.find("waited for rank 1") != std::string::npos);
  CHECK(all[0].error().message.find("another key") != std::string::npos);
  REQUIRE(!all[1].ok());
  CHECK(all[1].error().message.find("waited for rank 0") != std::string::npos);
}

TEST_CASE("communicators: a rank of another epoch is refused") {
  std::string kind = GENERATE("shm", "tcp");
  GroupMaker maker(kind, 2);
  maker.connect_ms = 400;
  maker.epochs[1] = {1, 6};
  auto all = maker.run([](Communicator& c) { return c.barrier(soon()); });
  bool named = false;
  for (auto& s : all) {
    REQUIRE(!s.ok());
    named |= s.error().message.find("1.6") != std::string::npos;
  }
  CHECK(named);
}

TEST_CASE("tcp: a changed bit anywhere in a frame is refused") {
  const std::string text = "forty-two bytes of something quite secret.";
  LinkPair probe = half_link();
  const size_t size = sealed(probe.keys, text).size();
  for (size_t byte = 0; byte < size; ++byte) {
    LinkPair p = half_link();
    std::string frame = sealed(p.keys, text);
    CHECK(frame.find("secret") == std::string::npos);
    frame[byte] = static_cast<char>(frame[byte] ^ 0x10);
    frame += std::string(70'000, '\0');  // a longer length must not make it wait for ever
    size_t off = 0;
    std::vector<std::byte> out(100);
    Result<size_t> got = size_t{0};
    while (got.ok() && *got == 0 && off < frame.size()) {
      ssize_t n = ::send(p.raw.get(), frame.data() + off, frame.size() - off, MSG_NOSIGNAL);
      if (n > 0) off += static_cast<size_t>(n);
      got = p.a->try_read(out);
    }
    INFO("byte " << byte);
    REQUIRE(!got.ok());
    CHECK(got.error().code == ErrorCode::kUnauthorized);
    CHECK(got.error().message.find("rank 1") != std::string::npos);
  }
}

TEST_CASE("tcp: an unchanged frame passes once; its repetition is refused") {
  LinkPair p = half_link();
  std::string frame = sealed(p.keys, "hello");
  REQUIRE(::send(p.raw.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
  std::vector<std::byte> out(100);
  auto got = p.a->try_read(out);
  REQUIRE(got.ok());
  CHECK(*got == 5);
  REQUIRE(::send(p.raw.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
  got = p.a->try_read(out);
  REQUIRE(!got.ok());
  CHECK(got.error().code == ErrorCode::kUnauthorized);
}

TEST_CASE("tcp: strangers on the data port harm nobody") {
  GroupMaker maker("tcp", 3);
  std::vector<Fd> silent;
  for (int i = 0; i < 100; ++i) silent.push_back(dial_plain(maker.listeners[0].endpoint()));
  for (int i = 0; i < 20; ++i) {
    silent.push_back(dial_plain(maker.listeners[1].endpoint()));
    std::string garbage(5'000, static_cast<char>(i * 7));
    (void)!::send(silent.back().get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
  }
  // One that knows the first bytes of a greeting but not the key.
  silent.push_back(dial_plain(maker.listeners[0].endpoint()));
  std::string hello = Handshake::make(Secret(std::string(32, 'z')))->make_hello({1, 0, 1, kEpoch});
  (void)!::send(silent.back().get(), hello.data(), hello.size(), MSG_NOSIGNAL);
  auto all = maker.run([](Communicator& c) { return c.barrier(soon()); });
  for (auto& s : all) {
    if (!s.ok()) FAIL(s.error().to_string());
  }
}

TEST_CASE("tcp: a greeting that somebody recorded opens nothing") {
  auto first = *Handshake::make(Secret(std::string(32, 'k')));
  auto acceptor = *Handshake::make(Secret(std::string(32, 'k')));
  std::string hello = first.make_hello({1, 0, 1, kEpoch});
  REQUIRE(acceptor.read_hello(hello).ok());
  auto proof = first.make_proof(acceptor.make_answer());
  REQUIRE(proof.ok());
  auto again = *Handshake::make(Secret(std::string(32, 'k')));
  REQUIRE(again.read_hello(hello).ok());
  again.make_answer();
  CHECK(again.read_proof(*proof).error().code == ErrorCode::kUnauthorized);
}

TEST_CASE("shm: a segment of another epoch, too small, or with a place taken is refused") {
  Fd segment = make_segment(2);
  auto attach = [&](Epoch epoch, uint32_t rank, uint32_t ranks) {
    return ShmSegment::attach(segment.get(), {epoch, 1, rank, ranks, rank == 0}, {}, Deadline::in_ms(100));
  };
  auto first = attach(kEpoch, 0, 2);
  REQUIRE(first.ok());
  CHECK(attach({1, 8}, 1, 2).error().code == ErrorCode::kStaleEpoch);
  CHECK(attach(kEpoch, 0, 2).error().code == ErrorCode::kConflict);
  CHECK(attach(kEpoch, 1, 9).error().code == ErrorCode::kDoesNotFit);
  {
    auto alone = ShmSegment::attach(segment.get(), {kEpoch, 1, 1, 2}, {0, 1}, Deadline::in_ms(100));
    CHECK(alone.ok());
  }
  Fd garbage = make_segment(2);
  uint64_t junk = 0x1234567;
  REQUIRE(::pwrite(garbage.get(), &junk, 8, 0) == 8);
  CHECK(ShmSegment::attach(garbage.get(), {kEpoch, 1, 0, 2, true}, {}, soon()).error().code == ErrorCode::kCorruptData);
}

TEST_CASE("shm: the next generation starts on a clean segment; whoever is of the last one stays out") {
  Fd segment = make_segment(2);
  auto attach = [&](uint64_t generation, uint32_t rank, std::function<bool()> cancelled = {}) {
    return ShmSegment::attach(segment.get(), {kEpoch, generation, rank, 2, rank == 0, std::move(cancelled)}, {},
                              Deadline::in_ms(200));
  };
  {
    auto a = attach(1, 0), b = attach(1, 1);
    REQUIRE((a.ok() && b.ok()));
    std::vector<std::byte> some(100, std::byte(7));
    REQUIRE((*a)->link(1, "rank 1")->try_write(some, false).ok());   // never taken
  }
  CHECK(attach(2, 1, [] { return true; }).error().code == ErrorCode::kCancelled);   // rank 0 lays it out, not rank 1
  auto a = attach(2, 0), b = attach(2, 1);
  REQUIRE((a.ok() && b.ok()));
  std::vector<std::byte> some(100);
  auto got = (*b)->link(0, "rank 0")->try_read(some);
  REQUIRE(got.ok());
  CHECK(*got == 0);
  CHECK(attach(1, 0).error().code == ErrorCode::kStaleEpoch);
}

TEST_CASE("shm: ranks as processes exchange data, and a killed one is named quickly") {
  Fd segment = make_segment(2, 16 << 10);
  DataListener listener = std::move(*DataListener::open("127.0.0.1"));
  GroupsOptions o;
  o.epoch = kEpoch;
  o.members = {{0, 0, "n1-0", "127.0.0.1:1"}, {1, 0, "n1-0", "127.0.0.1:2"}};
  o.listener = &listener;
  o.comm_fd = segment.get();
  o.data_key = Secret(std::string(32, 'k'));
  pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    o.rank = 1;
    o.deadline = soon();
    auto groups = form_groups(o);
    if (!groups.ok()) ::_exit(10);
    std::vector<int64_t> v(50'000, 2);
    if (!groups->tp->all_reduce_i64(v, soon()).ok() || v[49'999] != 5) ::_exit(11);
    for (;;) ::pause();
  }
  o.rank = 0;
  o.deadline = soon();
  auto groups = form_groups(o);
  REQUIRE(groups.ok());
  CHECK(groups->tp->describe() == "tp: shm, 2 ranks");
  std::vector<int64_t> v(50'000, 3);
  auto reduced = groups->tp->all_reduce_i64(v, soon());
  CHECK(reduced.ok());
  CHECK(v[0] == 5);
  ::kill(child, SIGKILL);
  int64_t begin = monotonic_ns();
  Status lost = groups->tp->barrier(soon());
  CHECK(monotonic_ns() - begin < 1'000'000'000);
  REQUIRE(!lost.ok());
  CHECK(lost.error().code == ErrorCode::kPeerLost);
  CHECK(lost.error().message.find("rank 1 (n1-0)") != std::string::npos);
  ::waitpid(child, nullptr, 0);
}
