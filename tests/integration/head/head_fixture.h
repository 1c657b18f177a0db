// A head in this process with the fake backend, and a plain HTTP client that can misbehave.
#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "engine/base/fd.h"
#include "fake_backend.h"
#include "runtime/head/http_server.h"
#include "runtime/head/openai_service.h"
#include "runtime/head/status_pages.h"
#include "runtime/head/step_trace.h"

namespace bp::rt {

class RawClient {
 public:
  explicit RawClient(uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(fd_.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
  }
  bool send(const std::string& data) {
    return ::send(fd_.get(), data.data(), data.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(data.size());
  }
  /// Reads until `until` is in what came, the connection ends, or 5 s passed.
  std::string read(const std::string& until = {}) {
    Deadline deadline = Deadline::in_ms(5000);
    while (until.empty() || got_.find(until) == std::string::npos) {
      pollfd p{fd_.get(), POLLIN, 0};
      if (::poll(&p, 1, static_cast<int>(deadline.left_ms())) <= 0) break;
      char buffer[65536];
      ssize_t n = ::recv(fd_.get(), buffer, sizeof buffer, 0);
      if (n <= 0) {
        ended_ = true;
        break;
      }
      got_.append(buffer, static_cast<size_t>(n));
    }
    return got_;
  }
  void forget() { got_.clear(); }
  bool ended() const { return ended_; }
  void close() { fd_.reset(); }

 private:
  Fd fd_;
  std::string got_;
  bool ended_ = false;
};

struct HeadFixture {
  explicit HeadFixture(HttpOptions options = {}, std::function<bool(std::string_view)> trace = nullptr) {
    auto t = Tokenizer::open(std::string(BP_SOURCE_DIR) + "/tests/golden/text/small_bpe");
    REQUIRE(t.ok());
    tokenizer = *std::move(t);
    http = HttpServer::make(options);
    EngineOptions engine_options = fake_engine_options();
    engine_options.deliver = [this](std::function<void()> f) { http->post(std::move(f)); };
    engine_options.trace = std::move(trace);
    engine = EngineLoop::start(std::move(engine_options),
                               std::make_unique<FakeBackend>(control, *tokenizer));
    service =
        std::make_unique<OpenaiService>(ServiceOptions{"fake/model", 1, 1024}, *engine, *tokenizer);
    StatusOptions status;
    status.deployment = "dep\"loy";
    pages = std::make_unique<StatusPages>(status, *engine, *http);
    auto p = http->listen("127.0.0.1", 0, [this](HttpRequest r, std::shared_ptr<HttpAnswer> a) {
      if (r.path == "/metrics")
        pages->handle_metrics(r, *a);
      else
        service->handle(std::move(r), std::move(a));
    });
    REQUIRE(p.ok());
    port = *p;
    auto d = http->listen("127.0.0.1", 0, [this](HttpRequest r, std::shared_ptr<HttpAnswer> a) {
      pages->handle_dashboard(r, *a);
    });
    REQUIRE(d.ok());
    dashboard_port = *d;
    http->run();
    REQUIRE(eventually([this] { return engine->ready(); }));
  }
  ~HeadFixture() {
    http->stop();
    engine.reset();
  }
  template <class F>
  static bool eventually(F f, int64_t ms = 5000) {
    Deadline deadline = Deadline::in_ms(ms);
    while (!deadline.passed()) {
      if (f()) return true;
      ::usleep(5000);
    }
    return f();
  }
  static std::string post(const std::string& path, const std::string& body,
                          const std::string& more = "Connection: close\r\n") {
    return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + more +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  std::string ask(const std::string& request, uint16_t to = 0) {
    RawClient c(to ? to : port);
    c.send(request);
    return c.read();
  }
  std::string chat(const std::string& more = "") {
    return ask(post("/v1/chat/completions",
                    R"({"messages":[{"role":"user","content":"Say it"}])" + more + "}"));
  }
  std::string get(const std::string& path, uint16_t to = 0) {
    return ask("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", to);
  }
  static std::string status_of(const std::string& answer) { return answer.substr(0, 12); }

  std::shared_ptr<FakeControl> control = std::make_shared<FakeControl>();
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<EngineLoop> engine;
  std::unique_ptr<OpenaiService> service;
  std::unique_ptr<StatusPages> pages;
  std::unique_ptr<HttpServer> http;
  uint16_t port = 0, dashboard_port = 0;
};

}  // namespace bp::rt
