#include <catch2/catch.hpp>
#include <cstdlib>

#include "engine/base/limits.h"
#include "engine/fetch/object_store.h"
#include "tests/support/par_store_process.h"

using namespace bp;
using namespace bp::fetch;
using bp::test::ParStoreProcess;

namespace {

StoreOptions loopback() {
  StoreOptions o;
  o.allow_private = true;
  return o;
}

std::unique_ptr<ObjectStore> open(const ParStoreProcess& p, StoreOptions o = loopback()) {
  auto s = ObjectStore::open(Secret(p.url()), std::move(o));
  REQUIRE(s.ok());
  return std::move(*s);
}

Deadline soon() { return Deadline::in_ms(10'000); }

Error read_error(ObjectStore& s, const std::string& name, uint64_t offset, uint64_t size) {
  auto r = s.read(name, offset, size, soon());
  REQUIRE(!r.ok());
  return r.error();
}

}  // namespace

TEST_CASE("object_store: a listing goes on over its pages, and a prefix narrows it") {
  ParStoreProcess p(2);
  for (int i = 0; i < 7; ++i)
    p.put("dir/f" + std::to_string(i), std::string(static_cast<size_t>(i), 'x'));
  p.put("other", "y");
  auto s = open(p);
  auto all = s->list("", soon());
  REQUIRE(all.ok());
  CHECK(all->size() == 8);
  CHECK((*all)[3].name == "dir/f3");
  CHECK((*all)[3].size_bytes == 3);
  CHECK((*all)[3].md5_base64.size() == 24);
  CHECK(!(*all)[3].etag.empty());
  CHECK(s->list("dir/", soon())->size() == 7);
  CHECK(s->list("none", soon())->empty());
}

TEST_CASE("object_store: ranges hold the bytes of the object") {
  ParStoreProcess p;
  const std::string content = p.put_random("a b/ä.bin", 300'000);
  auto s = open(p);
  auto r = s->read("a b/ä.bin", 1000, 5000, soon());
  REQUIRE(r.ok());
  CHECK(*r == content.substr(1000, 5000));
  CHECK(s->read("a b/ä.bin", 0, 300'000, soon()).value() == content);
  CHECK(s->read("a b/ä.bin", 5, 0, soon()).value().empty());
  CHECK(read_error(*s, "a b/ä.bin", 300'000, 10).code == ErrorCode::kHttpStatus);  // 416
  CHECK(read_error(*s, "a b/ä.bin", 299'999, 10).code == ErrorCode::kCorruptData);
  CHECK(read_error(*s, "a b/ä.bin", 0, 1ull << 40).code == ErrorCode::kTooLarge);
}

TEST_CASE("object_store: a changed object is not mixed with the old one") {
  ParStoreProcess p;
  p.put("a", "0123456789");
  auto s = open(p);
  auto listed = s->list("", soon()).value();
  p.put("a", "9876543210");
  auto st = s->stream(
      listed[0], 0, 10, [](std::string_view) { return Status(); }, soon());
  REQUIRE(!st.ok());
  CHECK(st.error().message.find("changed") != std::string::npos);
  ObjectInfo other{"a", 11, {}, {}};
  CHECK(s->stream(
             other, 0, 5, [](std::string_view) { return Status(); }, soon())
            .error()
            .code == ErrorCode::kCorruptData);
}

TEST_CASE("object_store: answers are told final or worth another try") {
  ParStoreProcess p;
  p.put("a", std::string(50'000, 'a'));
  auto s = open(p);
  for (auto [status, code] : {std::pair{403, ErrorCode::kHttpStatus},
                              {404, ErrorCode::kHttpStatus},
                              {500, ErrorCode::kHttpRetry},
                              {503, ErrorCode::kHttpRetry},
                              {429, ErrorCode::kHttpRetry}}) {
    p.faults(R"([{"status": )" + std::to_string(status) + "}]");
    INFO(status);
    CHECK(read_error(*s, "a", 0, 100).code == code);
    CHECK(s->list("", soon()).error().code == code);
  }
  p.faults(R"([{"cut_after": 1000}])");
  CHECK(read_error(*s, "a", 0, 50'000).code == ErrorCode::kHttpRetry);
  p.faults(R"([{"garbage": true}])");
  CHECK(s->list("", soon()).error().code == ErrorCode::kCorruptData);
  CHECK(read_error(*s, "a", 0, 100).code == ErrorCode::kCorruptData);
  p.faults(R"([{"ignore_range": true}])");
  CHECK(read_error(*s, "a", 10, 100).code == ErrorCode::kCorruptData);
  p.faults("[]");
  CHECK(s->read("a", 0, 100, soon()).ok());
}

TEST_CASE("object_store: a wrong token is a final error that does not show it") {
  ParStoreProcess p;
  p.put("a", "x");
  std::string url = p.url();
  url.insert(url.find("/p/") + 3, "Wrong");
  auto s = ObjectStore::open(Secret(url), loopback()).value();
  auto e = s->list("", soon()).error();
  CHECK(e.code == ErrorCode::kHttpStatus);
  CHECK(e.to_string().find(p.token()) == std::string::npos);
  CHECK(e.to_string().find("/p/") == std::string::npos);
}

TEST_CASE("object_store: slow stores end by stall, deadline or cancel, each named") {
  ParStoreProcess p;
  p.put("a", std::string(50'000, 'a'));
  p.faults(R"([{"delay_ms": 3000}])");
  StoreOptions o = loopback();
  o.stall_timeout_ms = 200;
  auto e = read_error(*open(p, o), "a", 0, 10);
  CHECK(e.code == ErrorCode::kHttpRetry);
  CHECK(e.message.find("no byte") != std::string::npos);
  auto s = open(p);
  CHECK(s->read("a", 0, 10, Deadline::in_ms(200)).error().code == ErrorCode::kDeadlineExceeded);
  o = loopback();
  o.cancelled = [] { return true; };
  CHECK(read_error(*open(p, o), "a", 0, 10).code == ErrorCode::kCancelled);
}

TEST_CASE("object_store: redirects stay within the origin and end") {
  ParStoreProcess p, elsewhere;
  p.put("a", "x");
  elsewhere.put("a", "y");
  auto s = open(p);
  p.faults(R"([{"times": 2, "redirect": "{path}"}])");
  CHECK(s->read("a", 0, 1, soon()).value() == "x");
  p.faults(R"([{"redirect": "{path}"}])");
  CHECK(read_error(*s, "a", 0, 1).code == ErrorCode::kHttpStatus);
  for (const std::string& to :
       {elsewhere.url() + "a", std::string("http://169.254.169.254/latest"),
        std::string("file:///etc/passwd"), "http://localhost:" + std::to_string(p.port()) + "/x"}) {
    p.faults(R"([{"redirect": ")" + to + R"("}])");
    auto e = read_error(*s, "a", 0, 1);
    CHECK(e.code == ErrorCode::kForbiddenAddress);
    CHECK(e.to_string().find(elsewhere.token()) == std::string::npos);
  }
}

TEST_CASE("object_store: loopback needs leave, link-local never gets it, however it is spelled") {
  ParStoreProcess p;
  p.put("a", "x");
  CHECK(read_error(*open(p, {}), "a", 0, 1).code == ErrorCode::kForbiddenAddress);
  const std::string port = std::to_string(p.port());
  for (const std::string& host :
       {"localhost:" + port, "127.1:" + port, "0:" + port, "[::ffff:127.0.0.1]:" + port}) {
    INFO(host);
    auto s = ObjectStore::open(Secret("http://" + host + "/p/t/n/n/b/b/o/"), {});
    REQUIRE(s.ok());
    CHECK((*s)->list("", soon()).error().code == ErrorCode::kForbiddenAddress);
  }
  for (const char* host :
       {"169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "2852039166"}) {
    INFO(host);
    auto s =
        ObjectStore::open(Secret(std::string("http://") + host + "/p/t/n/n/b/b/o/"), loopback());
    REQUIRE(s.ok());
    CHECK((*s)->list("", soon()).error().code == ErrorCode::kForbiddenAddress);
  }
}

TEST_CASE("object_store: a proxy in the environment is ignored") {
  ParStoreProcess p;
  p.put("a", "x");
  ::setenv("http_proxy", "http://127.0.0.1:1", 1);
  ::setenv("all_proxy", "http://127.0.0.1:1", 1);
  auto r = open(p)->read("a", 0, 1, soon());
  ::unsetenv("http_proxy");
  ::unsetenv("all_proxy");
  CHECK(r.ok());
}
