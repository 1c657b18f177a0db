// HeadClient against a port behind which nobody speaks.
#include "plugins/sdk/head_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <thread>

#include "engine/base/fd.h"
#include "plugins/sdk/keys.h"

using namespace bp;

TEST_CASE("a head that ends while an answer is awaited is noticed long before the deadline") {
  Fd port(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(port.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0);
  REQUIRE(::listen(port.get(), 16) == 0);
  socklen_t size = sizeof at;
  REQUIRE(::getsockname(port.get(), reinterpret_cast<sockaddr*>(&at), &size) == 0);

  const auto head = sdk::make_key_pair(), control = sdk::make_key_pair();
  sdk::HeadClientOptions options;
  options.endpoint = "tcp://127.0.0.1:" + std::to_string(ntohs(at.sin_port));
  options.head_public_key = head.public_key;
  options.control_public_key = control.public_key;
  options.control_secret_key = control.secret_key;
  auto client = sdk::HeadClient::open(std::move(options));
  REQUIRE(client.ok());
  // It lives and is silent: only the deadline ends the wait.
  auto silent = (*client)->status(Deadline::in_ms(500));
  REQUIRE(!silent.ok());
  CHECK(silent.error().code == ErrorCode::kDeadlineExceeded);

  std::thread end([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    port.reset();
  });
  const Deadline far = Deadline::in_ms(20'000);
  auto gone = (*client)->status(far);
  end.join();
  REQUIRE(!gone.ok());
  CHECK(gone.error().code == ErrorCode::kUnavailable);
  CHECK(far.left_ms() > 17'000);
}
