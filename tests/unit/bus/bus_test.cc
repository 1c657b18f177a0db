// The bus over real sockets: who is let in, what a bad peer can do (nothing), what survives a
// restart.
#include "engine/bus/bus.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "bp/v1/common.pb.h"
#include "engine/base/fd.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"

using namespace bp;
using namespace bp::bus;

namespace {
struct TempDir {
  std::string path = "/tmp/bp-bus-" + random_hex(6);
  TempDir() { REQUIRE(make_dirs(path).ok()); }
  ~TempDir() { (void)remove_tree(path); }
};

std::unique_ptr<Context> context() {
  auto c = Context::start();
  REQUIRE(c.ok());
  return std::move(c).value();
}

std::unique_ptr<Router> bind(Context& c, ListenOptions o) {
  auto r = Router::bind(c, std::move(o));
  if (!r.ok()) FAIL(r.error().to_string());
  return std::move(r).value();
}

std::unique_ptr<Dealer> dial(Context& c, DialOptions o) {
  auto d = Dealer::dial(c, std::move(o));
  if (!d.ok()) FAIL(d.error().to_string());
  return std::move(d).value();
}

/// A CURVE listener on a free loopback port that knows one key as "node:a".
struct CurveServer {
  KeyPair server = make_key_pair(), client = make_key_pair();
  std::unique_ptr<Router> router;
  explicit CurveServer(Context& c, std::string endpoint = "tcp://127.0.0.1:0",
                       size_t max_bytes = 0) {
    router = bind(c, {endpoint, server,
                      [key = client.public_key](std::string_view k) {
                        return k == key ? std::string("node:a") : std::string();
                      },
                      max_bytes});
  }
  DialOptions dial_options(std::string id = {}) const {
    return {router->endpoint(), std::move(id), client, server.public_key, 0};
  }
};

void round_trip(Router& router, Dealer& dealer, const std::string& user) {
  REQUIRE(dealer.send("hello").ok());
  auto got = router.recv(Deadline::in_ms(5'000));
  REQUIRE(got.ok());
  CHECK(got->payload == "hello");
  CHECK(got->peer.user == user);
  REQUIRE(router.send(got->peer.routing_id, std::string(100'000, 'x')).ok());
  auto back = dealer.recv(Deadline::in_ms(5'000));
  REQUIRE(back.ok());
  CHECK(back->size() == 100'000);
}

Fd raw_tcp(const std::string& endpoint) {
  const int port = std::stoi(endpoint.substr(endpoint.rfind(':') + 1));
  Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_port = htons(static_cast<uint16_t>(port));
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
  return fd;
}
}  // namespace

TEST_CASE("ipc carries messages both ways and tells the peer's user") {
  TempDir dir;
  auto c = context();
  const std::string path = dir.path + "/s.sock";
  auto router = bind(*c, {"ipc://" + path, {}, {}});
  struct stat st {};
  REQUIRE(::stat(path.c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  auto dealer = dial(*c, {"ipc://" + path, "me"});
  round_trip(*router, *dealer, "uid:" + std::to_string(::getuid()));
  CHECK(router->send("nobody", "x").error().code == ErrorCode::kPeerLost);
  CHECK(router->recv(Deadline::in_ms(20)).error().code == ErrorCode::kDeadlineExceeded);
}

TEST_CASE("tcp needs CURVE and a key that the authorizer knows") {
  auto c = context();
  CurveServer s(*c);
  auto good = dial(*c, s.dial_options());
  round_trip(*s.router, *good, "node:a");

  auto wrong = s.dial_options();
  wrong.keys = make_key_pair();
  auto refused = dial(*c, wrong);
  REQUIRE(refused->send("let me in").ok());

  // A plain ZeroMQ client without CURVE, as a stranger would write it.
  void* zmq = zmq_ctx_new();
  void* plain = zmq_socket(zmq, ZMQ_DEALER);
  int zero = 0;
  zmq_setsockopt(plain, ZMQ_LINGER, &zero, sizeof zero);
  REQUIRE(zmq_connect(plain, s.router->endpoint().c_str()) == 0);
  zmq_send(plain, "plain", 5, 0);

  CHECK(s.router->recv(Deadline::in_ms(300)).error().code == ErrorCode::kDeadlineExceeded);
  round_trip(*s.router, *good, "node:a");
  zmq_close(plain);
  zmq_ctx_term(zmq);

  auto no_server_key = s.dial_options();
  no_server_key.server_public_key.clear();
  CHECK(Dealer::dial(*c, no_server_key).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("a key that is registered after the first dial is let in later") {
  auto c = context();
  std::atomic<bool> known{false};
  KeyPair server = make_key_pair(), client = make_key_pair();
  auto router = bind(*c, {"tcp://127.0.0.1:0", server, [&](std::string_view) {
                            return known ? std::string("node:late") : std::string();
                          }});
  auto dealer = dial(*c, {router->endpoint(), "", client, server.public_key});
  REQUIRE(dealer->send("hello").ok());
  CHECK(!router->recv(Deadline::in_ms(150)).ok());
  known = true;
  auto got = router->recv(Deadline::in_ms(5'000));
  REQUIRE(got.ok());
  CHECK(got->peer.user == "node:late");
}

TEST_CASE("an oversize message costs only its sender's connection") {
  auto c = context();
  CurveServer s(*c, "tcp://127.0.0.1:0", 1'000);
  auto good = dial(*c, s.dial_options());
  REQUIRE(good->send("before").ok());
  REQUIRE(s.router->recv(Deadline::in_ms(5'000)).ok());
  auto bad = dial(*c, s.dial_options());
  REQUIRE(bad->send(std::string(5'000, 'x')).ok());
  CHECK(!s.router->recv(Deadline::in_ms(200)).ok());
  REQUIRE(good->send("after").ok());
  auto got = s.router->recv(Deadline::in_ms(5'000));
  REQUIRE(got.ok());
  CHECK(got->payload == "after");
  CHECK(s.router->send(got->peer.routing_id, std::string(1'001, 'x')).error().code ==
        ErrorCode::kTooLarge);
}

TEST_CASE("garbage on a raw connection harms nobody") {
  auto c = context();
  CurveServer s(*c);
  std::vector<Fd> strangers;
  for (int i = 0; i < 20; ++i) {
    Fd fd = raw_tcp(s.router->endpoint());
    std::string junk(200 + 37 * static_cast<size_t>(i), '\0');
    for (size_t k = 0; k < junk.size(); ++k) junk[k] = static_cast<char>((k * 131 + i * 17) & 255);
    if (i % 3 == 0) junk.replace(0, 10, std::string("\xff\0\0\0\0\0\0\0\x01\x7f", 10));
    if (i % 3 == 1) junk.replace(0, 16, "GET / HTTP/1.1\r\n");
    (void)!::send(fd.get(), junk.data(), junk.size(), MSG_NOSIGNAL);
    strangers.push_back(std::move(fd));
  }
  auto good = dial(*c, s.dial_options());
  round_trip(*s.router, *good, "node:a");
}

TEST_CASE(
    "clients reconnect when the server comes back, and a restarted client takes over its id") {
  TempDir dir;
  auto c = context(),
       server = context();  // a restart is a new context: the old socket is gone then
  const std::string endpoint = "ipc://" + dir.path + "/s.sock";
  auto router = bind(*server, {endpoint, {}, {}});
  auto dealer = dial(*c, {endpoint, "host-1"});
  round_trip(*router, *dealer, "uid:" + std::to_string(::getuid()));
  router.reset();
  server.reset();
  server = context();
  router = bind(*server, {endpoint, {}, {}});
  round_trip(*router, *dealer, "uid:" + std::to_string(::getuid()));
  auto second = dial(*c, {endpoint, "host-1"});
  round_trip(*router, *second, "uid:" + std::to_string(::getuid()));
}

TEST_CASE("a stale socket file is replaced, a living or foreign one is not") {
  TempDir dir;
  auto c = context();
  const std::string path = dir.path + "/s.sock";
  {
    // A socket file that nobody listens on, as kill -9 leaves it.
    Fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_storage storage{};
    storage.ss_family = AF_UNIX;
    path.copy(reinterpret_cast<char*>(&storage) + sizeof(sa_family_t), path.size());
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage),
                   static_cast<socklen_t>(sizeof(sa_family_t) + path.size() + 1)) == 0);
  }
  auto first = bind(*c, {"ipc://" + path, {}, {}});
  auto second = Router::bind(*c, {"ipc://" + path, {}, {}});
  REQUIRE(!second.ok());
  CHECK(second.error().code == ErrorCode::kPortBusy);
  auto dealer = dial(*c, {"ipc://" + path, ""});
  round_trip(*first, *dealer, "uid:" + std::to_string(::getuid()));

  const std::string file = dir.path + "/file";
  REQUIRE(write_file_atomic(file, "precious").ok());
  CHECK(Router::bind(*c, {"ipc://" + file, {}, {}}).error().code == ErrorCode::kPortBusy);
  CHECK(read_file(file, 100).value() == "precious");
  CHECK(Router::bind(*c, {"ipc://" + std::string(200, 'a'), {}, {}}).error().code ==
        ErrorCode::kInvalidArgument);

  CurveServer busy(*c);
  auto again = Router::bind(
      *c, {busy.router->endpoint(), busy.server, [](std::string_view) { return std::string(); }});
  CHECK(again.error().code == ErrorCode::kPortBusy);
}

TEST_CASE("a key file is private, whole and made once") {
  TempDir dir;
  const std::string path = dir.path + "/k";
  auto made = load_or_make_key_pair(path);
  REQUIRE(made.ok());
  auto again = load_or_make_key_pair(path);
  REQUIRE(again.ok());
  CHECK(again->public_key == made->public_key);
  CHECK(again->secret_key.reveal() == made->secret_key.reveal());
  REQUIRE(::chmod(path.c_str(), 0644) == 0);
  CHECK(load_or_make_key_pair(path).error().code == ErrorCode::kPermission);
  REQUIRE(write_file_atomic(path, "nonsense").ok());
  CHECK(load_or_make_key_pair(path).error().code == ErrorCode::kCorruptData);
}

namespace {
/// One thread that runs what is posted, as the daemon's executor does.
struct Loop {
  std::mutex mutex;
  std::condition_variable cv;
  std::deque<std::function<void()>> queue;
  SocketThread::Post post() {
    return [this](std::function<void()> f) {
      std::lock_guard lock(mutex);
      queue.push_back(std::move(f));
      cv.notify_one();
    };
  }
  template <class Done>
  bool run_until(Done done, int64_t ms = 10'000) {
    Deadline deadline = Deadline::in_ms(ms);
    while (!done()) {
      std::unique_lock lock(mutex);
      if (!cv.wait_for(lock, std::chrono::milliseconds(deadline.left_ms()),
                       [&] { return !queue.empty(); })) {
        return false;
      }
      auto f = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      f();
    }
    return true;
  }
};
}  // namespace

TEST_CASE("a socket thread takes sends from many threads and keeps the order of each") {
  TempDir dir;
  auto c = context();
  Loop loop;
  auto sockets = SocketThread::start(*c, loop.post());
  REQUIRE(sockets.ok());
  auto& t = *sockets.value();
  constexpr int kThreads = 8, kEach = 500;
  int received = 0, echoed = 0;
  std::vector<int> next(kThreads, 0);
  bool in_order = true;
  std::string unreachable;
  SocketThread::SocketId server = 0;
  auto listening = t.listen(
      {"ipc://" + dir.path + "/s.sock", {}, {}},
      [&](Incoming m) {
        ++received;
        const int who = m.payload[0] - '0';
        in_order &= std::stoi(m.payload.substr(2)) == next[static_cast<size_t>(who)]++;
        t.send(server, m.peer.routing_id, m.payload);
      },
      [&](std::string id) { unreachable = id; });
  REQUIRE(listening.ok());
  server = listening->id;
  auto client = t.dial({listening->endpoint, ""}, [&](std::string) { ++echoed; });
  REQUIRE(client.ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < kEach; ++k)
        t.send(*client, "", std::to_string(i) + ":" + std::to_string(k));
    });
  }
  CHECK(loop.run_until([&] { return echoed == kThreads * kEach; }));
  for (auto& x : threads) x.join();
  CHECK(received == kThreads * kEach);
  CHECK(in_order);

  t.send(server, "not there", "dropped");
  CHECK(loop.run_until([&] { return unreachable == "not there"; }));
  t.close(server);
  t.send(*client, "", "into the void");
  sockets.value().reset();
}

TEST_CASE("messages parse within bounds") {
  v1::Epoch e;
  e.set_counter(7);
  CHECK(parse<v1::Epoch>(e.SerializeAsString())->counter() == 7);
  auto bad = parse<v1::Epoch>("\xff\xff garbage");
  REQUIRE(!bad.ok());
  CHECK(bad.error().code == ErrorCode::kProtocol);
  CHECK(bad.error().message.find("bp.v1.Epoch") != std::string::npos);
}
