#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <set>

#include "engine/base/files.h"
#include "engine/fetch/object_store.h"
#include "tests/integration/node/node_harness.h"

using namespace bp;
using bp::test::NodeHarness;
using bp::test::ParStoreProcess;

namespace {

constexpr size_t kBig = 40 << 20;  // five parts

v1::FetchObjects request(const ParStoreProcess& p, const std::string& key = "fetch") {
  v1::FetchObjects out;
  out.set_fetch_key(key);
  out.set_allow_private_stores(true);
  out.add_sources()->set_par_url(p.url());
  fetch::StoreOptions o;
  o.allow_private = true;
  auto store = fetch::ObjectStore::open(Secret(p.url()), o).value();
  const auto listed = store->list("", Deadline::in_ms(10'000)).value();
  for (const auto& info : listed) {
    auto* object = out.add_objects();
    object->set_name(info.name);
    object->set_path("/models/" + info.name);
    object->set_size_bytes(info.size_bytes);
    object->set_etag(info.etag);
    object->set_md5_base64(info.md5_base64);
  }
  return out;
}

std::string file(const NodeHarness& h, const std::string& name) {
  return read_file(h.work_dir + "/files/models/" + name, 64 << 20).value();
}

void check_no_token(const NodeHarness& h, const ParStoreProcess& p) {
  for (const auto& e : std::filesystem::recursive_directory_iterator(h.dir.path())) {
    if (!e.is_regular_file()) continue;
    INFO(e.path());
    CHECK(read_file(e.path(), 64 << 20).value().find(p.token()) == std::string::npos);
  }
}

}  // namespace

TEST_CASE(
    "fetch: objects come whole, a second node takes them from the cache, no URL is written down") {
  ParStoreProcess p;
  const std::string big = p.put_random("dir/big.gguf", kBig);
  p.put("empty", "");
  p.put("small.json", "{}");
  NodeHarness h;
  h.start_agent();
  REQUIRE(!h.fetch(request(p)).has_error());
  auto s = h.wait_fetch("fetch");
  CHECK(s.error().message() == "");
  REQUIRE(s.done());
  CHECK(s.bytes_done() == kBig + 2);
  CHECK(s.bytes_from_cache() == 0);
  CHECK(s.objects_done() == 3);
  CHECK(file(h, "dir/big.gguf") == big);
  CHECK(file(h, "small.json") == "{}");
  CHECK(file(h, "empty").empty());
  CHECK(p.ranges("dir/big.gguf").size() == 5);
  check_no_token(h, p);
  // Asked again: nothing to do. With the files gone: linked anew from the cache.
  CHECK(h.fetch(request(p)).fetch().done());
  std::filesystem::remove_all(h.work_dir + "/files/models");
  h.fetch(request(p), 2);
  s = h.wait_fetch("fetch");
  CHECK(s.done());
  CHECK(s.bytes_from_cache() == kBig + 2);
  CHECK(file(h, "dir/big.gguf") == big);
  CHECK(p.ranges("dir/big.gguf").size() == 5);
}

TEST_CASE("fetch: after a kill -9 of the agent it goes on at the ranges that were missing") {
  ParStoreProcess p;
  const std::string big = p.put_random("big", kBig);
  NodeHarness h;
  h.start_agent();
  // The last part hangs, all others come.
  auto wanted = request(p);
  wanted.set_parallel_ranges(2);
  p.faults(R"([{"on": "get", "bytes_per_s": 16000000}])");
  h.fetch(wanted);
  v1::NodeCommand query;
  query.mutable_fetch_query()->set_fetch_key("fetch");
  while (h.call(query, 0).fetch().bytes_done() < kBig / 2) h.pump(20);
  h.kill_agent();
  const size_t before = p.ranges("big").size();
  p.faults("[]");
  h.start_agent();
  h.wait_hello();
  CHECK(h.call(query, 0).error().code() == "BP_NOT_FOUND");
  REQUIRE(!h.fetch(request(p)).has_error());
  auto s = h.wait_fetch("fetch");
  REQUIRE(s.done());
  CHECK(s.bytes_from_cache() >= 8u << 20);
  CHECK(file(h, "big") == big);
  const auto ranges = p.ranges("big");
  CHECK(ranges.size() - before < 5);
  check_no_token(h, p);
}

TEST_CASE("fetch: passing trouble is tried again, lasting trouble is told with its code") {
  ParStoreProcess p;
  const std::string content = p.put_random("a.bin", 3 << 20);
  NodeHarness h;
  h.start_agent();
  const auto wanted = request(p);
  p.faults(
      R"([{"on": "get", "times": 2, "status": 500}, {"on": "get", "times": 1, "cut_after": 100000}])");
  h.fetch(wanted);
  CHECK(h.wait_fetch("fetch").done());
  CHECK(file(h, "a.bin") == content);
  for (auto [fault, code] :
       {std::pair<std::string, std::string>{R"({"status": 403})", "BP_HTTP_STATUS"},
        {R"({"status": 404})", "BP_HTTP_STATUS"},
        {R"({"redirect": "http://169.254.169.254/x"})", "BP_FORBIDDEN_ADDRESS"},
        {R"({"ignore_range": true, "wrong_bytes": true})", "BP_CORRUPT_DATA"}}) {
    INFO(fault);
    std::filesystem::remove_all(h.cache_dir);
    std::filesystem::remove_all(h.work_dir + "/files/models");
    p.faults("[" + fault + "]");
    h.fetch(wanted);
    auto s = h.wait_fetch("fetch");
    CHECK(!s.done());
    CHECK(s.error().code() == code);
    CHECK(s.error().message().find("a.bin") != std::string::npos);
  }
  p.faults("[]");
  h.fetch(wanted);
  CHECK(h.wait_fetch("fetch").done());
  check_no_token(h, p);
}

TEST_CASE(
    "fetch: a store that keeps failing ends in an error worth another try, and what came is kept") {
  ParStoreProcess p;
  const std::string content = p.put_random("a.bin", 20 << 20);
  NodeHarness h;
  h.start_agent();
  const auto wanted = request(p);
  p.faults(R"([{"on": "get", "times": 2}, {"on": "get", "status": 503}])");
  h.fetch(wanted);
  auto s = h.wait_fetch("fetch", 40'000);
  CHECK(s.error().code() == "BP_HTTP_RETRY");
  p.faults("[]");
  h.fetch(wanted);
  CHECK(h.wait_fetch("fetch").done());
  CHECK(file(h, "a.bin") == content);
}

TEST_CASE(
    "fetch: hostile names are refused before anything is fetched, and links are not followed") {
  ParStoreProcess p;
  p.put("a", "x");
  NodeHarness h;
  h.start_agent();
  const auto good = request(p);
  for (const std::string path : {"/models/../../etc/x", "..", "//etc/passwd", "/models//a",
                                 "/models/./a", "", "/", "/models/a/", "/models/a\nb"}) {
    INFO(path);
    auto wanted = good;
    wanted.mutable_objects(0)->set_path(path);
    CHECK(h.fetch(wanted).error().code() == "BP_INVALID_ARGUMENT");
  }
  const std::string outside = h.dir / "outside";
  std::filesystem::create_directories(outside);
  std::filesystem::create_directory_symlink(outside, h.work_dir + "/files/models");
  h.fetch(good);
  auto s = h.wait_fetch("fetch");
  CHECK(s.error().code() == "BP_INVALID_ARGUMENT");
  CHECK(s.error().message().find("symbolic link") != std::string::npos);
  CHECK(std::filesystem::is_empty(outside));
  std::filesystem::remove(h.work_dir + "/files/models");
  // A link in place of the file itself is replaced, what it points to stays.
  std::filesystem::create_directories(h.work_dir + "/files/models");
  REQUIRE(write_file_atomic(outside + "/target", "keep").ok());
  std::filesystem::create_symlink(outside + "/target", h.work_dir + "/files/models/a");
  h.fetch(good);
  CHECK(h.wait_fetch("fetch").done());
  CHECK(read_file(outside + "/target", 10).value() == "keep");
  CHECK(file(h, "a") == "x");
}

TEST_CASE("fetch: a private store without leave is not contacted") {
  ParStoreProcess p;
  p.put("a", "x");
  NodeHarness h;
  h.start_agent();
  auto wanted = request(p);
  wanted.set_allow_private_stores(false);
  h.fetch(wanted);
  CHECK(h.wait_fetch("fetch").error().code() == "BP_FORBIDDEN_ADDRESS");
  wanted.mutable_sources(0)->set_par_url("http://127.0.0.1/no/par/SECRETTOKEN");
  auto r = h.fetch(wanted);
  CHECK(r.error().code() == "BP_INVALID_ARGUMENT");
  CHECK(r.error().message().find("SECRETTOKEN") == std::string::npos);
}

TEST_CASE("fetch: two agents that share a cache fill each entry once") {
  ParStoreProcess p;
  const std::string big = p.put_random("big", kBig);
  NodeHarness a, b;
  b.cache_dir = a.cache_dir;
  a.start_agent();
  b.start_agent();
  p.faults(R"([{"on": "get", "bytes_per_s": 50000000}])");
  a.fetch(request(p));
  b.fetch(request(p));
  CHECK(a.wait_fetch("fetch").done());
  CHECK(b.wait_fetch("fetch").done());
  CHECK(file(a, "big") == big);
  CHECK(file(b, "big") == big);
  CHECK(p.ranges("big").size() == 5);
}

TEST_CASE("fetch: a full disk is named, nothing is lost, and it goes on when there is room") {
  ParStoreProcess p;
  const std::string big = p.put_random("big", kBig);
  NodeHarness h;
  std::filesystem::create_directories(h.cache_dir);
  if (::mount("tmpfs", h.cache_dir.c_str(), "tmpfs", 0, "size=16m") != 0) {
    WARN("not tested: this user may not mount a small file system");
    return;
  }
  struct Unmount {
    const std::string& at;
    ~Unmount() { ::umount2(at.c_str(), MNT_DETACH); }
  } unmount{h.cache_dir};
  h.start_agent();
  h.fetch(request(p));
  auto s = h.wait_fetch("fetch");
  CHECK(s.error().code() == "BP_DISK_FULL");
  CHECK(s.error().message().find(h.cache_dir) != std::string::npos);
  CHECK(p.ranges("big").empty());  // the room is taken before the first byte
  REQUIRE(::mount("tmpfs", h.cache_dir.c_str(), "tmpfs", MS_REMOUNT, "size=64m") == 0);
  h.fetch(request(p));
  s = h.wait_fetch("fetch");
  CHECK(s.error().message() == "");
  REQUIRE(s.done());  // onto another file system: copied, not linked
  CHECK(file(h, "big") == big);
}
