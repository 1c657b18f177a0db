#include "runtime/head/status_pages.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "engine/base/clock.h"
#include "runtime/head/openai_service.h"

namespace bp::rt {

namespace json = boost::json;

StatusPages::StatusPages(StatusOptions options, const EngineLoop& engine, const HttpServer& http)
    : options_(std::move(options)), engine_(engine), http_(http), started_ns_(monotonic_ns()) {}

std::string StatusPages::metrics() const {
  const EngineStats& s = engine_.stats();
  v1::HeadStatus status;
  engine_.fill_status(&status);
  std::string out;
  auto label = [](std::string text) {  // Prometheus escapes \, " and newline
    std::string escaped;
    for (char c : text) {
      if (c == '\\' || c == '"') escaped += '\\';
      escaped += c == '\n' ? ' ' : c;
    }
    return escaped;
  };
  std::string labels = fmt::format("{{deployment=\"{}\",model=\"{}\"}}", label(options_.deployment),
                                   label(options_.model));
  auto metric = [&](const char* name, const char* type, const char* help, auto value) {
    out += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n{0}{3} {4}\n", name, help, type, labels,
                       value);
  };
  metric("bp_head_ready", "gauge", "1 when a token came through all ranks in the last 10 s",
         engine_.ready() ? 1 : 0);
  metric("bp_head_serving", "gauge", "1 when all ranks are loaded and connected",
         status.serving() ? 1 : 0);
  metric("bp_head_last_token_age_seconds", "gauge",
         "Age of the last token of any sequence, -1: none yet",
         status.last_canary_age_ms() < 0
             ? -1.0
             : static_cast<double>(status.last_canary_age_ms()) / 1000.0);
  metric("bp_head_ranks_expected", "gauge", "Ranks of the layout", status.ranks_expected());
  metric("bp_head_ranks_joined", "gauge", "Ranks that said hello", status.ranks_joined());
  metric("bp_head_ranks_loaded", "gauge", "Ranks whose weights are mapped", status.ranks_loaded());
  metric("bp_head_sequences_running", "gauge", "Sequences in the batch", s.running.load());
  metric("bp_head_sequences_waiting", "gauge", "Sequences that wait for a place", s.waiting.load());
  metric("bp_head_kv_blocks_free", "gauge", "KV blocks that no sequence holds",
         s.free_blocks.load());
  metric("bp_head_kv_blocks", "gauge", "KV blocks of a rank", options_.plan.kv_blocks());
  metric("bp_head_connections", "gauge", "Open HTTP connections", http_.connections());
  metric("bp_head_prompt_tokens_total", "counter", "Prompt tokens taken in",
         s.prompt_tokens.load());
  metric("bp_head_generated_tokens_total", "counter", "Tokens generated for requests",
         s.generated_tokens.load());
  metric("bp_head_steps_total", "counter", "Steps executed", s.steps.load());
  metric("bp_head_step_compute_seconds_total", "counter", "Time that ranks computed",
         static_cast<double>(s.step_us.load()) / 1e6);
  metric("bp_head_sequences_done_total", "counter", "Sequences that ended by themselves",
         s.sequences_done.load());
  metric("bp_head_sequences_cancelled_total", "counter", "Sequences whose client went away",
         s.sequences_cancelled.load());
  metric("bp_head_sequences_failed_total", "counter", "Sequences that ended in an error",
         s.sequences_failed.load());
  metric("bp_head_waiting_tokens", "gauge", "Work of the sequences that wait, in tokens",
         s.waiting_tokens.load());
  metric("bp_head_tokens_per_second", "gauge", "Tokens computed a second, measured while there is work",
         s.tokens_per_s.load());
  metric("bp_head_requests_refused_total", "counter", "Requests that the full queue refused",
         s.refused.load());
  metric("bp_head_sequences_expired_total", "counter", "Sequences whose time was up", s.expired.load());
  metric("bp_head_preemptions_total", "counter", "Sequences that gave their KV blocks to others",
         s.preemptions.load());
  metric("bp_head_shared_tokens_total", "counter", "Prompt tokens found in the KV cache",
         s.shared_tokens.load());
  metric("bp_head_copied_blocks_total", "counter", "KV blocks copied for choices of one prompt",
         s.copied_blocks.load());
  metric("bp_head_groups_lost_total", "counter", "Times that the group of ranks broke",
         s.groups_lost.load());
  metric("bp_head_uptime_seconds", "counter", "Age of this process",
         static_cast<double>(monotonic_ns() - started_ns_) / 1e9);
  return out;
}

std::string StatusPages::state_json() const {
  v1::HeadStatus status;
  engine_.fill_status(&status);
  const EngineStats& s = engine_.stats();
  auto epoch = [](uint64_t incarnation, uint64_t counter) {
    return Epoch{incarnation, counter}.to_string();
  };
  json::array ranks;
  for (const auto& r : status.ranks()) {
    json::object o{{"rank", r.rank()},
                   {"state", r.state()},
                   {"pid", r.process().pid()},
                   {"bytes_loaded", r.bytes_loaded()},
                   {"bytes_total", r.bytes_total()}};
    for (const auto& p : options_.plan.ranks()) {
      if (p.rank() != r.rank()) continue;
      o["tp_rank"] = p.tp_rank();
      o["pp_rank"] = p.pp_rank();
      o["node"] = p.node_index();
      o["layers"] = fmt::format("{}-{}", p.first_layer(), p.first_layer() + p.layer_count());
    }
    ranks.push_back(std::move(o));
  }
  json::object out{
      {"run_id", options_.run_id},
      {"deployment", options_.deployment},
      {"model", options_.model},
      {"device", options_.stand_in},
      {"endpoint", options_.endpoint},
      {"tp", options_.plan.tp_size()},
      {"pp", options_.plan.pp_size()},
      {"epoch", options_.epoch.to_string()},
      {"group_epoch", epoch(status.group_epoch().incarnation(), status.group_epoch().counter())},
      {"ready", engine_.ready()},
      {"serving", status.serving()},
      {"draining", engine_.draining()},
      {"last_token_age_ms", status.last_canary_age_ms()},
      {"ranks_expected", status.ranks_expected()},
      {"ranks_joined", status.ranks_joined()},
      {"ranks_loaded", status.ranks_loaded()},
      {"sequences_running", s.running.load()},
      {"sequences_waiting", s.waiting.load()},
      {"prompt_tokens", s.prompt_tokens.load()},
      {"generated_tokens", s.generated_tokens.load()},
      {"kv_blocks", options_.plan.kv_blocks()},
      {"kv_blocks_free", s.free_blocks.load()},
      {"uptime_s", (monotonic_ns() - started_ns_) / 1'000'000'000}};
  out["group_error"] =
      status.group_error().code().empty()
          ? json::value(nullptr)
          : json::value(status.group_error().code() + ": " + status.group_error().message());
  out["ranks"] = std::move(ranks);
  return json::serialize(out);
}

void StatusPages::handle_metrics(const HttpRequest& request, HttpAnswer& answer) const {
  if (answer_health(engine_, request, answer)) return;
  if (request.path != "/metrics") return answer_not_found(request, answer);
  if (!allow_methods(request, answer, "GET, HEAD")) return;
  answer.send({200, "text/plain; version=0.0.4; charset=utf-8", metrics(), {}});
}

void StatusPages::handle_dashboard(const HttpRequest& request, HttpAnswer& answer) const {
  if (request.path == "/metrics" || answer_health(engine_, request, answer)) {
    if (request.path == "/metrics") handle_metrics(request, answer);
    return;
  }
  if (request.path != "/" && request.path != "/index.html" && request.path != "/state")
    return answer_not_found(request, answer);
  if (!allow_methods(request, answer, "GET, HEAD")) return;
  if (request.path == "/state")
    return answer.send({200, "application/json", state_json(), {{"Cache-Control", "no-store"}}});
  answer.send({200,
               "text/html; charset=utf-8",
               kDashboardPage,
               {{"Content-Security-Policy",
                 "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                 "connect-src 'self'"},
                {"X-Content-Type-Options", "nosniff"}}});
}

}  // namespace bp::rt
