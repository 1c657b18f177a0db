#include "head_fixture.h"

namespace bp::rt {

TEST_CASE("an answer is the model's text", "[head]") {
  HeadFixture h;
  std::string answer = h.chat();
  CHECK(h.status_of(answer) == "HTTP/1.1 200");
  CHECK(answer.find("is Paris. \xf0\x9f\x98\x80 It lies on the Seine.") != std::string::npos);
  CHECK(answer.find("\"finish_reason\":\"stop\"") != std::string::npos);
  std::string stream = h.chat(R"(,"stream":true,"return_token_ids":true,"stop":["Seine"])");
  CHECK(stream.find("text/event-stream") != std::string::npos);
  CHECK(stream.find("prompt_token_ids") != std::string::npos);
  CHECK(stream.find("data: [DONE]\n\n") != std::string::npos);
  CHECK(stream.find("Seine") == std::string::npos);
}

TEST_CASE("keep-alive and pipelined requests are answered in order", "[head]") {
  HeadFixture h;
  RawClient c(h.port);
  std::string one = h.post("/v1/completions", R"({"prompt":"x<|im_end|>","max_tokens":2})", "");
  c.send(one + one + "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  std::string got = c.read();
  size_t first = got.find("text_completion"), second = got.find("text_completion", first + 1);
  CHECK(second != std::string::npos);
  CHECK(got.find("\"live\"") > second);
  CHECK(c.ended());
  RawClient slow(h.port);
  for (int i = 0; i < 3; ++i) {
    slow.forget();
    slow.send("GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(slow.read("max_model_len").find("fake/model") != std::string::npos);
  }
}

TEST_CASE("methods, paths and pages", "[head]") {
  HeadFixture h;
  CHECK(h.status_of(h.get("/nothing")) == "HTTP/1.1 404");
  CHECK(h.status_of(h.get("/v1/chat/completions")) == "HTTP/1.1 405");
  CHECK(h.get("/v1/chat/completions").find("Allow: POST") != std::string::npos);
  CHECK(h.status_of(h.ask("DELETE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) ==
        "HTTP/1.1 405");
  std::string head = h.ask("HEAD /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  CHECK(h.status_of(head) == "HTTP/1.1 200");
  CHECK(head.find("\r\n\r\n") + 4 == head.size());
  CHECK(h.status_of(
            h.ask("OPTIONS /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")) ==
        "HTTP/1.1 204");
  CHECK(h.status_of(h.get("/health/ready")) == "HTTP/1.1 200");
  CHECK(h.status_of(h.get("/v1/models/fake/model")) == "HTTP/1.1 200");
  std::string metrics = h.get("/metrics");
  CHECK(metrics.find("bp_head_ready{deployment=\"dep\\\"loy\",model=\"\"} 1\n") !=
        std::string::npos);
  CHECK(h.get("/", h.dashboard_port).find("<!doctype html>") != std::string::npos);
  CHECK(h.get("/state", h.dashboard_port).find("\"ranks_expected\":4") != std::string::npos);
}

TEST_CASE("malformed HTTP is answered or dropped, and the server lives on", "[head]") {
  HttpOptions options;
  options.body_bytes = 1000;
  options.header_bytes = 2000;
  HeadFixture h(options);
  std::string big(5000, 'a');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"garbage\r\n\r\n", "400"},
      {"GET / HTTP/9.9\r\nHost: x\r\n\r\n", "505"},
      {"GET / HTTP/1.1\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\nHost: x\r\n" + big + ": 1\r\n\r\n", "431"},
      {"GET /" + big + " HTTP/1.1\r\nHost: x\r\n\r\n", "431"},
      {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + big, "413"},
      {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
       "400"},
      {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"},
      {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: "
       "4\r\n\r\nabcd",
       "400"},
      {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: "
       "chunked\r\n\r\nabc",
       "400"},
      {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
       "400"},
      {"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" +
           big,
       "413"},
      {"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", "400"},
      {std::string("GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 27), "400"},
  };
  for (const auto& [request, status] : cases) {
    INFO(request.substr(0, 90));
    std::string answer = h.ask(request);
    CHECK(h.status_of(answer) == "HTTP/1.1 " + status);
  }
  RawClient cut(h.port);
  cut.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{\"pro");
  cut.close();
  RawClient expecting(h.port);
  expecting.send(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
      "2\r\n\r\n");
  CHECK(expecting.read("\r\n\r\n").find("100 Continue") != std::string::npos);
  expecting.send("{}");
  CHECK(expecting.read("'prompt' is required").find("HTTP/1.1 400") != std::string::npos);
  CHECK(h.status_of(h.chat()) == "HTTP/1.1 200");
  CHECK(HeadFixture::eventually([&] { return h.http->connections() <= 1; }));
}

TEST_CASE("a client that goes away frees its sequence", "[head]") {
  HeadFixture h;
  h.control->step_ms = 5;
  for (bool stream : {true, false}) {
    RawClient c(h.port);
    c.send(h.post(
        "/v1/completions",
        std::string(R"({"prompt":"x<|im_end|>","max_tokens":900,"ignore_eos":true,"stream":)") +
            (stream ? "true}" : "false}")));
    REQUIRE(HeadFixture::eventually([&] { return h.engine->stats().running == 1; }));
    if (stream) c.read("data: ");
    uint64_t before = h.engine->stats().sequences_cancelled;
    c.close();
    CHECK(HeadFixture::eventually(
        [&] { return h.engine->stats().sequences_cancelled == before + 1; }));
    CHECK(HeadFixture::eventually(
        [&] { return h.engine->stats().running == 0 && h.engine->stats().free_blocks == 256; }));
  }
}

TEST_CASE("a full queue is refused with 429 and the time to wait", "[head]") {
  HeadFixture h;
  h.control->step_ms = 5;
  RawClient c(h.port);
  c.send(h.post("/v1/completions",
                R"({"prompt":"x<|im_end|>","n":20,"max_tokens":900,"ignore_eos":true})"));
  REQUIRE(HeadFixture::eventually([&] { return h.engine->stats().waiting == 4; }));
  std::string answer = h.ask(h.post("/v1/completions", R"({"prompt":"x<|im_end|>","n":24})"));
  CHECK(h.status_of(answer) == "HTTP/1.1 429");
  CHECK(answer.find("Retry-After: ") != std::string::npos);
  CHECK(answer.find("rate_limit_exceeded") != std::string::npos);
  CHECK(h.engine->stats().refused == 1);
  CHECK(h.engine->ready());
  c.close();
  CHECK(HeadFixture::eventually([&] { return h.engine->stats().running == 0; }));
  CHECK(h.status_of(h.chat()) == "HTTP/1.1 200");
}

TEST_CASE("a request whose time is up ends with an error", "[head]") {
  HeadFixture h;
  h.control->step_ms = 5;
  const std::string body =
      R"({"prompt":"x<|im_end|>","max_tokens":900,"ignore_eos":true,"timeout_ms":100)";
  std::string whole = h.ask(h.post("/v1/completions", body + "}"));
  CHECK(h.status_of(whole) == "HTTP/1.1 408");
  CHECK(whole.find("deadline_exceeded") != std::string::npos);
  std::string stream = h.ask(h.post("/v1/completions", body + R"(,"stream":true})"));
  CHECK(h.status_of(stream) == "HTTP/1.1 200");
  CHECK(stream.find("deadline_exceeded") != std::string::npos);
  CHECK(stream.find("[DONE]") != std::string::npos);
  CHECK(h.engine->stats().expired == 2);
}

TEST_CASE("penalties, biases, priority and choices reach the ranks", "[head]") {
  HeadFixture h;
  std::string answer = h.chat(
      R"(,"n":3,"priority":-3,"user":"someone","presence_penalty":0.5,"logit_bias":{"7":-100},"max_tokens":4)");
  CHECK(h.status_of(answer) == "HTTP/1.1 200");
  for (int i = 0; i < 3; ++i) CHECK(answer.find("\"index\":" + std::to_string(i)) != std::string::npos);
  CHECK(h.engine->stats().copied_blocks == 2);
  CHECK(h.control->saw_bias_of == 7);
  CHECK(h.control->most_seen == 3);  // the fourth token was drawn knowing three
  CHECK(h.status_of(h.chat(R"(,"logit_bias":{"70000":1})")) == "HTTP/1.1 400");
}

TEST_CASE("what the engine did replays bit for bit", "[head]") {
  const std::string path = "/tmp/bp-trace-" + std::to_string(::getpid());
  auto writer = open_step_trace(path, 1 << 20);
  REQUIRE(writer.ok());
  {
    HeadFixture h({}, *std::move(writer));
    h.control->step_ms = 1;
    RawClient c(h.port);
    c.send(h.post("/v1/completions", R"({"prompt":["x<|im_end|>","y"],"n":8,"max_tokens":40})"));
    CHECK(h.status_of(h.chat()) == "HTTP/1.1 200");
    h.control->set_serving(false);
    REQUIRE(HeadFixture::eventually([&] { return h.engine->stats().groups_lost == 1; }));
    h.control->set_serving(true);
    c.read();
  }
  CHECK(replay_step_trace(path) == 0);
  REQUIRE(::truncate(path.c_str(), 5) == 0);
  CHECK(replay_step_trace(path) == 0);  // cut off, but nothing in it is wrong
  REQUIRE(::truncate(path.c_str(), 50) == 0);
  CHECK(replay_step_trace(path) == 2);  // ends in zeroes
  ::unlink(path.c_str());
  CHECK(replay_step_trace(path) == 2);
}

TEST_CASE("a crowd of connections is refused with 503", "[head]") {
  HttpOptions options;
  options.connections = 3;
  HeadFixture h(options);
  RawClient a(h.port), b(h.port), c(h.port);
  REQUIRE(HeadFixture::eventually([&] { return h.http->connections() == 3; }));
  CHECK(h.status_of(h.get("/health/live")) == "HTTP/1.1 503");
}

TEST_CASE("slow requests and idle connections are dropped", "[head]") {
  HttpOptions options;
  options.request_ms = 200;
  options.idle_ms = 300;
  HeadFixture h(options);
  RawClient idle(h.port), slow(h.port);
  slow.send("GET / HTTP/1.1\r\nHos");
  idle.read();
  slow.read();
  CHECK(idle.ended());
  CHECK(slow.ended());
  CHECK(HeadFixture::eventually([&] { return h.http->connections() == 0; }));
}

TEST_CASE("a client that does not read is dropped, not buffered for", "[head]") {
  HttpOptions options;
  options.queued_bytes = 20'000;
  HeadFixture h(options);
  RawClient c(h.port);
  std::string prompt = "x<|im_end|>";
  std::string many;
  for (int i = 0; i < 12; ++i) {
    c.send(h.post(
        "/v1/completions",
        R"({"prompt":"x<|im_end|>","max_tokens":1000,"ignore_eos":true,"stream":true,"logprobs":20,"n":16})",
        ""));
  }
  CHECK(HeadFixture::eventually([&] { return h.http->connections() == 0; }, 20'000));
  CHECK(HeadFixture::eventually([&] { return h.engine->stats().running == 0; }));
}

TEST_CASE("streams outlive a broken group", "[head]") {
  HeadFixture h;
  h.control->step_ms = 5;
  RawClient c(h.port);
  c.send(h.post("/v1/chat/completions",
                R"({"messages":[{"role":"user","content":"Say it"}],"stream":true})"));
  REQUIRE(HeadFixture::eventually([&] { return h.engine->stats().generated_tokens >= 5; }));
  h.control->set_serving(false);
  CHECK(HeadFixture::eventually([&] { return !h.engine->ready(); }, 500));
  std::string refused = h.chat();
  CHECK(h.status_of(refused) == "HTTP/1.1 503");
  CHECK(refused.find("Retry-After") != std::string::npos);
  CHECK(h.status_of(h.get("/health/ready")) == "HTTP/1.1 503");
  CHECK(h.status_of(h.get("/health/live")) == "HTTP/1.1 200");
  h.control->set_serving(true);
  std::string all = c.read("[DONE]");
  std::string text;  // every piece once, in order
  for (size_t at = 0; (at = all.find("\"content\":\"", at)) != std::string::npos;) {
    at += 11;
    text += all.substr(at, all.find('"', at) - at);
  }
  CHECK(text == kFakeText);
  CHECK(h.engine->stats().groups_lost == 1);
  CHECK(HeadFixture::eventually([&] { return h.engine->ready(); }));
}

TEST_CASE("a group whose result fits no step is given up, and the next one goes on", "[head]") {
  HeadFixture h;
  h.control->step_ms = 5;
  RawClient c(h.port);
  c.send(h.post("/v1/chat/completions",
                R"({"messages":[{"role":"user","content":"Say it"}],"stream":true})"));
  REQUIRE(HeadFixture::eventually([&] { return h.engine->stats().generated_tokens >= 5; }));
  h.control->wrong_number = true;
  REQUIRE(HeadFixture::eventually([&] { return !h.engine->serving(); }));
  CHECK(HeadFixture::eventually([&] { return h.control->failed_with("does not fit its step"); }));
  h.control->set_serving(true);
  CHECK(c.read("[DONE]").find("\"error\"") == std::string::npos);
  CHECK(h.engine->stats().groups_lost == 1);
}

TEST_CASE("streams end with an error when no group comes back in time", "[head]") {
  HeadFixture h;
  h.control->step_ms = 5;
  RawClient c(h.port);
  c.send(h.post("/v1/chat/completions",
                R"({"messages":[{"role":"user","content":"Say it"}],"stream":true})"));
  REQUIRE(HeadFixture::eventually([&] { return h.engine->stats().generated_tokens >= 5; }));
  h.control->set_serving(false);
  std::string all = c.read("[DONE]");
  CHECK(all.find("\"error\":{") != std::string::npos);
  CHECK(all.find("server_error") != std::string::npos);
}

TEST_CASE("draining refuses new requests and lets running ones end", "[head]") {
  HeadFixture h;
  h.control->step_ms = 5;
  RawClient c(h.port);
  c.send(
      h.post("/v1/completions", R"({"prompt":"x<|im_end|>","max_tokens":60,"ignore_eos":true})"));
  REQUIRE(HeadFixture::eventually([&] { return h.engine->stats().running == 1; }));
  std::atomic<int64_t> left{-1};
  h.engine->drain(5000, [&](uint64_t n) { left = static_cast<int64_t>(n); });
  CHECK(h.status_of(h.chat()) == "HTTP/1.1 503");
  CHECK(c.read().find("\"finish_reason\":\"length\"") != std::string::npos);
  CHECK(HeadFixture::eventually([&] { return left == 0; }));
}

TEST_CASE("a busy port is named", "[head]") {
  auto first = HttpServer::make({}), second = HttpServer::make({});
  auto port = first->listen("127.0.0.1", 0, {});
  REQUIRE(port.ok());
  auto again = second->listen("127.0.0.1", *port, {});
  REQUIRE(!again.ok());
  CHECK(again.error().code == ErrorCode::kPortBusy);
  CHECK(again.error().message.find("127.0.0.1:" + std::to_string(*port)) != std::string::npos);
}

}  // namespace bp::rt
