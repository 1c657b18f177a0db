// bp-head: the API server, scheduler and rendezvous of one deployment. Its configuration comes in
// fd 3. Exit codes: 0 after SIGTERM, 2 bad configuration or usage, 3 a port is taken, 1 anything
// else.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include <cstdlib>
#include <cstring>
#include <ctime>

#include "engine/base/build.h"
#include "engine/base/log.h"
#include "engine/base/secret.h"
#include "engine/bus/bus.h"
#include "runtime/head/client_port.h"
#include "runtime/head/head_config.h"
#include "runtime/head/http_server.h"
#include "runtime/head/openai_service.h"
#include "runtime/head/status_pages.h"
#include "runtime/head/step_trace.h"

namespace bp::rt {
namespace {

constexpr int kConfigFd = 3;
constexpr int kPortTaken = 3;
constexpr int64_t kDrainMs = 10'000;
constexpr const char* kTracePath = "logs/head-steps.trace";  // in the node's work folder

int fail(const Error& e) {
  BP_LOG(err, "head.failed", "error={}", e.to_string());
  fmt::print(stderr, "bp-head: {}\n", e.to_string());
  return e.code == ErrorCode::kPortBusy                                            ? kPortTaken
         : e.code == ErrorCode::kInvalidArgument || e.code == ErrorCode::kProtocol ? 2
                                                                                   : 1;
}

/// Context at which attention takes a token as many multiplications as everything else of a layer.
uint32_t attention_parity(const v1::ModelSummary& m) {
  const uint64_t embedding = uint64_t{m.vocab()} * m.hidden();
  if (m.layers() == 0 || m.hidden() == 0 || m.parameter_count() <= embedding) return 0;
  return static_cast<uint32_t>((m.parameter_count() - embedding) / m.layers() / (uint64_t{2} * m.hidden()));
}

EngineOptions engine_options(const v1::HeadConfig& config, const Tokenizer& tokenizer) {
  EngineOptions o;
  const auto& plan = config.plan();
  o.scheduler.kv_blocks = plan.kv_blocks();
  o.scheduler.kv_block_tokens = plan.kv_block_tokens();
  o.scheduler.max_context_tokens = plan.max_context_tokens();
  o.scheduler.stages = std::max(1u, plan.pp_size());
  o.scheduler.attention_parity_tokens = attention_parity(plan.model());
  if (config.max_queue_requests()) o.scheduler.max_waiting = config.max_queue_requests();
  o.canary_prompt = tokenizer.encode("Hello", true, false);
  if (o.canary_prompt.empty()) o.canary_prompt.push_back(0);
  return o;
}

std::string tcp(const std::string& address, uint32_t port) {
  return fmt::format("tcp://{}:{}", address, port);
}

/// Waits for SIGTERM or SIGINT, which are blocked in all threads.
void wait_for_end(const sigset_t& signals) {
  int got = 0;
  while (sigwait(&signals, &got) != 0) {  // untimed: what the main thread is for
  }
  BP_LOG(info, "head.signal", "signal={}", got);
}

struct Head {
  v1::HeadConfig config;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<bus::Context> context;
  std::unique_ptr<EngineLoop> engine;
  std::unique_ptr<OpenaiService> service;
  std::unique_ptr<StatusPages> pages;
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<ClientPort> client_port;
  std::shared_ptr<HttpHandler> application = std::make_shared<HttpHandler>();
  std::shared_ptr<HttpHandler> metrics = std::make_shared<HttpHandler>();
  std::shared_ptr<HttpHandler> dashboard = std::make_shared<HttpHandler>();

  ~Head() {  // who calls goes before who is called
    if (http) http->stop();
    client_port.reset();
    engine.reset();
    http.reset();
  }

  /// Every port is bound before anything else is done.
  Status bind() {
    http = HttpServer::make({});
    auto forward = [](std::shared_ptr<HttpHandler> to) {
      return
          [to](HttpRequest r, std::shared_ptr<HttpAnswer> a) { (*to)(std::move(r), std::move(a)); };
    };
    BP_TRY(http->listen(config.address(), static_cast<uint16_t>(config.http_port()),
                        forward(application)));
    if (config.dashboard_port()) {
      BP_TRY(http->listen(config.address(), static_cast<uint16_t>(config.dashboard_port()),
                          forward(dashboard)));
    }
    if (config.metrics_port()) {
      BP_TRY(http->listen(config.address(), static_cast<uint16_t>(config.metrics_port()),
                          forward(metrics)));
    }
    BP_ASSIGN(context, bus::Context::start());
    RankGroupOptions group;
    group.endpoint = tcp(config.address(), config.rendezvous_port());
    group.keys = keys();
    group.rank_public_key = config.rank_public_key();
    group.build_id = build_id();
    BP_ASSIGN(auto ranks, RankGroup::open(*context, std::move(group)));
    BP_ASSIGN(tokenizer, Tokenizer::open(config.model_path()));
    EngineOptions options = engine_options(config, *tokenizer);
    options.deliver = [server = http.get()](std::function<void()> f) { server->post(std::move(f)); };
    if (config.trace_mib() > 0) {
      BP_ASSIGN(options.trace, open_step_trace(kTracePath, uint64_t{config.trace_mib()} << 20));
    }
    engine = EngineLoop::start(std::move(options),
                               make_group_backend(std::move(ranks), config.plan()));
    ClientPortOptions client;
    client.endpoint = tcp(config.address(), config.client_port());
    client.keys = keys();
    client.control_public_key = config.control_public_key();
    client.client_public_key = config.client_public_key();
    client.epoch = {config.epoch().incarnation(), config.epoch().counter()};
    client.max_context_tokens = config.plan().max_context_tokens();
    BP_ASSIGN(client_port, ClientPort::open(*context, std::move(client), *engine, *tokenizer));
    return {};
  }

  void serve() {
    std::string model = config.served_model_name().empty() ? config.plan().model().name()
                                                           : config.served_model_name();
    service = std::make_unique<OpenaiService>(
        ServiceOptions{model, time(nullptr), config.plan().max_context_tokens()}, *engine,
        *tokenizer);
    StatusOptions status;
    status.run_id = config.run_id();
    status.deployment = config.deployment_name();
    status.model = model;
    status.stand_in = config.stand_in();
    status.endpoint = fmt::format("http://{}:{}", config.address(), config.http_port());
    status.epoch = {config.epoch().incarnation(), config.epoch().counter()};
    status.plan = config.plan();
    pages = std::make_unique<StatusPages>(std::move(status), *engine, *http);
    *application = [this](HttpRequest r, std::shared_ptr<HttpAnswer> a) {
      if (r.path == "/metrics")
        pages->handle_metrics(r, *a);
      else
        service->handle(std::move(r), std::move(a));
    };
    *metrics = [this](HttpRequest r, std::shared_ptr<HttpAnswer> a) {
      pages->handle_metrics(r, *a);
    };
    *dashboard = [this](HttpRequest r, std::shared_ptr<HttpAnswer> a) {
      pages->handle_dashboard(r, *a);
    };
    http->run();
  }

  bus::KeyPair keys() const {
    return {config.curve_public_key(), Secret(config.curve_secret_key())};
  }
};

int run() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  disable_core_dumps();
  const char* level = std::getenv("BP_LOG_LEVEL");
  log_init("bp-head", level ? level : "info");
  auto config = read_head_config(kConfigFd);
  if (!config.ok()) return fail(config.error());
  Head head;
  head.config = *std::move(config);
  if (auto bound = head.bind(); !bound.ok()) return fail(bound.error());
  head.serve();
  BP_LOG(info, "head.listening", "deployment={} run={} epoch={}.{} endpoint=http://{}:{} build={}",
         head.config.deployment_name(), head.config.run_id(), head.config.epoch().incarnation(),
         head.config.epoch().counter(), head.config.address(), head.config.http_port(), build_id());
  wait_for_end(signals);
  head.engine->drain(kDrainMs,
                     [](uint64_t left) { BP_LOG(info, "head.drained", "left={}", left); });
  head.http->drain(kDrainMs);
  return 0;
}

}  // namespace
}  // namespace bp::rt

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  if (argc == 3 && !std::strcmp(argv[1], "--replay")) return bp::rt::replay_step_trace(argv[2]);
  if (argc > 1) {
    bool version = !std::strcmp(argv[1], "--version");
    fmt::print(version ? stdout : stderr,
               "bp-head {}\nstarted by bp-node: its configuration comes in descriptor 3\n"
               "bp-head --replay FILE: does a recorded trace of its scheduler again\n",
               bp::build_id());
    return version || !std::strcmp(argv[1], "--help") ? 0 : 2;
  }
  try {
    return bp::rt::run();
  } catch (const std::exception& e) {
    fmt::print(stderr, "bp-head: {}\n", e.what());
    return 1;
  }
}
