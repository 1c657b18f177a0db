// A head without ranks for tests of clients and for measuring the head itself: prints its endpoint,
// serves until standard input ends. Its first argument: milliseconds that a step takes, 0 without it.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "engine/base/log.h"
#include "fake_backend.h"
#include "runtime/head/http_server.h"
#include "runtime/head/openai_service.h"

int main(int argc, char** argv) {
  using namespace bp::rt;
  bp::log_init("fake_head", "warn");
  auto tokenizer = Tokenizer::open(std::string(BP_SOURCE_DIR) + "/tests/golden/text/small_bpe");
  if (!tokenizer.ok())
    return std::fprintf(stderr, "%s\n", tokenizer.error().to_string().c_str()), 1;
  auto control = std::make_shared<FakeControl>();
  if (argc > 1) control->step_ms = std::atoi(argv[1]);
  auto http = HttpServer::make({});
  EngineOptions options = fake_engine_options();
  options.deliver = [&http](std::function<void()> f) { http->post(std::move(f)); };
  auto engine =
      EngineLoop::start(std::move(options), std::make_unique<FakeBackend>(control, **tokenizer));
  OpenaiService service({"fake/model", 1, 1024}, *engine, **tokenizer);
  auto port = http->listen("127.0.0.1", 0, [&](HttpRequest r, std::shared_ptr<HttpAnswer> a) {
    service.handle(std::move(r), std::move(a));
  });
  if (!port.ok()) return std::fprintf(stderr, "%s\n", port.error().to_string().c_str()), 1;
  http->run();
  std::printf("http://127.0.0.1:%d\n", *port);
  std::fflush(stdout);
  char c;
  while (::read(0, &c, 1) > 0) {
  }
  http->stop();
  return 0;
}
