#include "plugins/serve/stage.h"

#include <algorithm>
#include <cstdlib>

#include "plugins/serve/watch.h"

namespace bp::stages {
namespace {

constexpr int64_t kCanaryMs = 20'000;
constexpr int64_t kStatusMs = 2'000;
constexpr int64_t kSilenceMs = 10'000;  // a head that lives and is silent for so long is replaced
constexpr int64_t kPollMs = 20;
constexpr int64_t kAgentsMs = 100;

int64_t option_ms(sdk::StageContext& ctx, const char* name, int64_t otherwise) {
  const std::string text = ctx.option(name);
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  return text.empty() || *end != '\0' || value < 0 || value > 3'600'000 ? otherwise : value;
}

// What is wrong after a question to the head has failed: the group, the head, its node, or only this moment.
std::optional<sdk::StageResult> find_cause(sdk::StageContext& ctx, const Watch& watch, sdk::HeadClient& client,
                                           const Error& error) {
  while (auto notice = ctx.next_notice(kPollMs)) {
    if (auto result = watch.judge_notice(ctx, *notice)) return result;
  }
  if (ctx.cancelled()) return ctx.cancelled_result();
  auto status = client.status(Deadline::in_ms(kStatusMs));
  return status.ok() ? watch.judge_status(ctx, *status) : watch.judge_silence(ctx, error);
}

sdk::StageResult watch_forever(sdk::StageContext& ctx, const Watch& watch, sdk::HeadClient& client) {
  const int64_t watch_ms = option_ms(ctx, "watch_ms", 1'000);
  Deadline silent = Deadline::in_ms(kSilenceMs);
  for (;;) {
    const Deadline next = Deadline::in_ms(watch_ms);
    do {
      auto notice = ctx.next_notice(std::min(next.left_ms(), kAgentsMs));
      if (ctx.cancelled()) return ctx.cancelled_result();
      if (auto result = watch.judge_agents(ctx)) return *result;
      if (!notice) continue;
      if (auto result = watch.judge_notice(ctx, *notice)) return *result;
    } while (!next.passed());
    auto status = client.status(Deadline::in_ms(kStatusMs));
    if (ctx.cancelled()) return ctx.cancelled_result();
    if (status.ok()) {
      silent = Deadline::in_ms(kSilenceMs);
      if (auto result = watch.judge_status(ctx, *status)) return *result;
      ctx.progress(status->requests_running(), 0, "requests",
                   std::to_string(status->requests_running()) + " running, " +
                       std::to_string(status->requests_waiting()) + " waiting");
      continue;
    }
    if (auto result = watch.judge_silence(ctx, status.error())) return *result;
    if (silent.passed()) {
      return ctx.rewind("start_head",
                        Error{ErrorCode::kDeadlineExceeded,
                              "the head has not answered for " + std::to_string(kSilenceMs) + " ms", {}});
    }
  }
}

}  // namespace

sdk::StageResult Serve::run(sdk::StageContext& ctx) {
  auto watch = Watch::from_inputs(ctx);
  if (!watch.ok()) return ctx.fail(watch.error());
  auto client = watch->open_client(ctx);
  if (!client.ok()) return ctx.rewind("start_head", client.error());
  auto status = (*client)->status(Deadline::in_ms(kStatusMs));
  if (!status.ok()) {
    if (auto result = watch->judge_silence(ctx, status.error())) return *result;
    return ctx.fail(status.error());
  }
  if (auto result = watch->judge_status(ctx, *status)) return *result;
  ctx.progress(0, 1, "canary", "one token through all ranks");
  auto canary = (*client)->canary(Deadline::in_ms(kCanaryMs));
  if (ctx.cancelled()) return ctx.cancelled_result();
  if (!canary.ok()) {
    if (auto result = find_cause(ctx, *watch, **client, canary.error())) return *result;
    return ctx.fail(Error(canary.error()).with_context("canary"));
  }
  v1::EndpointReady endpoint;
  endpoint.set_url(watch->head().http_endpoint());
  endpoint.set_model(watch->plan().model().name());
  endpoint.set_first_token_ms(canary->first_token_ms());
  ctx.progress(1, 1, "canary");
  ctx.ready({{std::string("endpoint"), endpoint.SerializeAsString()}});
  ctx.log("info", "serving " + endpoint.model() + " at " + endpoint.url() + ", first token after " +
                      std::to_string(endpoint.first_token_ms()) + " ms");
  return watch_forever(ctx, *watch, **client);
}

sdk::StageResult Serve::destroy(sdk::StageContext& ctx) {
  auto watch = Watch::from_inputs(ctx);
  if (!watch.ok()) return ctx.succeed();  // it never served
  auto client = watch->open_client(ctx);
  if (!client.ok()) return ctx.succeed();
  const int64_t drain_ms = option_ms(ctx, "drain_ms", 5'000);
  auto left = (*client)->drain(drain_ms, Deadline::in_ms(drain_ms + 1'000));
  if (!left.ok()) {
    ctx.log("warn", "not drained: " + left.error().message);
  } else if (*left > 0) {
    ctx.log("warn", std::to_string(*left) + " requests were cut off after " + std::to_string(drain_ms) + " ms");
  }
  return ctx.succeed();
}

}  // namespace bp::stages
