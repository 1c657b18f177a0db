#include "tests/bench/engine/load_client.h"

#include <google/protobuf/arena.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "engine/base/clock.h"

namespace bp::bench {
namespace {
[[noreturn]] void die(const std::string& why) {
  fprintf(stderr, "engine_load: %s\n", why.c_str());
  exit(1);
}
}  // namespace

double Samples::quantile(double q) {
  if (values.empty()) return 0;
  const size_t at = std::min(values.size() - 1, static_cast<size_t>(q * values.size()));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[at];
}

int64_t LoadClient::now_us() { return monotonic_ns() / 1000; }

LoadClient::LoadClient(LoadOptions options) : options_(std::move(options)) {
  context_ = bus::Context::start().value();
  auto dealer = bus::Dealer::dial(*context_, {options_.endpoint, {}, {}, {}, 0});
  if (!dealer.ok()) die(dealer.error().to_string());
  dealer_ = std::move(dealer).value();
  v1::SubmitRuns one;
  auto* run = one.add_runs();
  run->set_workflow(options_.workflow);
  (*run->mutable_inputs())["payload"] = std::string(options_.payload_bytes, 'p');
  (*run->mutable_labels())["owner"] = "bench";
  new_run_ = one.SerializeAsString();
}

LoadClient::~LoadClient() {
  dealer_.reset();
  context_.reset();
}

void LoadClient::send(const std::string& request) {
  Status sent = dealer_->send(request);
  if (!sent.ok()) die(sent.error().to_string());
}

void LoadClient::watch_ends() {
  v1::ClientRequest request;
  request.set_request_id(next_request_++);
  request.set_protocol(1);
  request.mutable_watch_ends()->set_all(true);
  send(request.SerializeAsString());
}

void LoadClient::submit(size_t count, int64_t due_us) {
  v1::ClientRequest request;
  const uint64_t id = next_request_++;
  request.set_request_id(id);
  request.set_protocol(1);
  std::string runs;
  runs.reserve(count * new_run_.size());
  for (size_t i = 0; i < count; ++i) runs += new_run_;
  // Field 23 of ClientRequest, put together by hand: a load generator must not be the load.
  std::string bytes = request.SerializeAsString() + "\xba\x01";
  size_t size = runs.size();
  for (; size >= 0x80; size >>= 7) bytes += static_cast<char>(size | 0x80);
  bytes += static_cast<char>(size);
  bytes += runs;
  asked_[id] = {due_us ? due_us : now_us(), count};
  submitted += count;
  send(bytes);
}

int64_t LoadClient::list(uint32_t limit, const std::string& label) {
  v1::ClientRequest request;
  request.set_request_id(next_request_++);
  request.set_protocol(1);
  request.mutable_list()->set_all(true);
  request.mutable_list()->set_limit(limit);
  if (!label.empty()) (*request.mutable_list()->mutable_filter()->mutable_labels())["owner"] = label;
  const int64_t begin = now_us();
  send(request.SerializeAsString());
  for (;;) {
    auto got = dealer_->recv(Deadline::in_ms(60'000));
    if (!got.ok()) die(got.error().to_string());
    v1::ClientReply reply;
    if (!reply.ParseFromString(*got)) die("a reply does not parse");
    if (reply.request_id() != request.request_id()) continue;
    if (reply.has_error()) die("the daemon answers: " + reply.error().message());
    if (reply.list().runs().empty()) die("the list is empty");
    return now_us() - begin;
  }
}

bool LoadClient::receive(int64_t until_us) {
  auto got = dealer_->recv(Deadline::at_ns(until_us * 1000));
  if (!got.ok()) {
    if (got.error().code == ErrorCode::kDeadlineExceeded) return false;
    die(got.error().to_string());
  }
  for (; got.ok(); got = dealer_->try_recv()) {
    google::protobuf::Arena arena;
    auto* reply = google::protobuf::Arena::CreateMessage<v1::ClientReply>(&arena);
    if (!reply->ParseFromString(*got)) die("a reply does not parse");
    take(*reply);
  }
  return true;
}

void LoadClient::take(const v1::ClientReply& reply) {
  if (reply.has_error()) die("the daemon answers: " + reply.error().message());
  const int64_t now = now_us();
  if (reply.has_runs_submitted()) {
    auto it = asked_.find(reply.request_id());
    if (it == asked_.end()) die("an answer to nothing");
    const Asked asked = it->second;
    asked_.erase(it);
    bool some = false;
    for (const auto& run : reply.runs_submitted().runs()) {
      if (!run.run_id().empty()) {
        ++accepted;
        some = true;
        begun_.emplace(run.run_id(), asked.at_us);
      } else if (run.error_code() == "BP_OVERLOADED") {
        ++refused;
      } else {
        die("refused: " + run.error_code() + " " + run.error_message());
      }
    }
    if (keep_samples) (some ? ack_us : refusal_us).add(static_cast<double>(now - asked.at_us));
    if (reply.runs_submitted().retry_after_ms() > 0)
      retry_after_ms = reply.runs_submitted().retry_after_ms();
  }
  for (const auto& end : reply.ends().ends()) {
    auto it = begun_.find(end.run_id());
    if (it == begun_.end()) continue;  // of another client
    ++ended;
    if (end.state() != v1::RUN_STATE_SUCCEEDED) ++failed;
    if (keep_samples) run_us.add(static_cast<double>(now - it->second));
    begun_.erase(it);
  }
}

}  // namespace bp::bench
