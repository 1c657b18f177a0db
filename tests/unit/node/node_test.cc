#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "engine/base/files.h"
#include "engine/node/cache_entry.h"
#include "engine/node/daemon_link.h"
#include "engine/node/memory.h"
#include "engine/node/process_table.h"
#include "engine/node/safe_tree.h"
#include "engine/node/state_store.h"
#include "tests/support/par_store_process.h"

using namespace bp;
using namespace bp::node;
using bp::test::TempDir;

namespace {

bool never() { return false; }

std::unique_ptr<CacheEntry> entry_of(const TempDir& dir, uint64_t size, uint64_t part) {
  auto e = CacheEntry::open(dir.path(), "key", size, part, never);
  REQUIRE(e.ok());
  return std::move(*e);
}

}  // namespace

TEST_CASE("safe_tree: a path is its parts below the mount location") {
  auto p = check_path("/models/a b/c.gguf");
  REQUIRE(p.ok());
  CHECK(*p == std::vector<std::string>{"models", "a b", "c.gguf"});
  CHECK(check_path("models/c").ok());
  CHECK(check_path("/..a/b..").ok());
  for (const std::string bad :
       {"", "/", "//a", "/a//b", "/a/", "..", "/../a", "/a/..", "/./a", "a\tb"}) {
    INFO(bad);
    CHECK(check_path(bad).error().code == ErrorCode::kInvalidArgument);
  }
  CHECK(!check_path(std::string("a\0b", 3)).ok());
  CHECK(!check_path(std::string(300, 'x')).ok());
  std::string deep = "d";
  for (int i = 0; i < 100; ++i) deep += "/d";
  CHECK(!check_path(deep).ok());
}

TEST_CASE("safe_tree: files are placed as links and found again by size") {
  TempDir dir;
  REQUIRE(write_file_atomic(dir / "source", "12345").ok());
  std::filesystem::create_directories(dir / "root");
  auto tree = SafeTree::open(dir / "root");
  REQUIRE(tree.ok());
  for (int again = 0; again < 2; ++again) {
    REQUIRE(tree->place("/m/x/y", dir / "source").ok());
    CHECK(tree->holds("/m/x/y", 5));
    CHECK(!tree->holds("/m/x/y", 4));
    CHECK(!tree->holds("/m/x", 5));
    size_t files = 0;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(dir / "root/m/x"))
      ++files;
    CHECK(files == 1);
  }
  CHECK(tree->place("/m/x", dir / "source").error().code == ErrorCode::kConflict);
  CHECK(tree->place("/m/x/y/z", dir / "source").error().code == ErrorCode::kConflict);
  std::filesystem::create_symlink("/etc", dir / "root/link");
  CHECK(tree->place("/link/passwd", dir / "source").error().code == ErrorCode::kInvalidArgument);
  CHECK(!tree->holds("/link/passwd", std::filesystem::file_size("/etc/passwd")));
}

TEST_CASE("cache_entry: whole parts are remembered, a whole object becomes read-only data") {
  TempDir dir;
  const std::string content = "0123456789";
  {
    auto e = entry_of(dir, 10, 4);
    REQUIRE(e->prepare().ok());
    REQUIRE(e->part_count() == 3);
    CHECK(e->part_size(2) == 2);
    REQUIRE(e->write(4, "4567").ok());
    CHECK(e->mark(1).value() == false);
  }
  {
    auto e = entry_of(dir, 10, 4);
    CHECK(!e->complete());
    REQUIRE(e->prepare().ok());
    CHECK(e->is_whole(1));
    CHECK(!e->is_whole(0));
    CHECK(e->whole_bytes() == 4);
    REQUIRE(e->write(0, "0123").ok());
    REQUIRE(e->write(8, "89").ok());
    CHECK(e->mark(0).value() == false);
    CHECK(e->mark(2).value() == true);
    REQUIRE(e->finish(decode_md5("eB5eJF1ptWaXm4bijSPyxw=="), never).ok());
  }
  auto e = entry_of(dir, 10, 4);
  CHECK(e->complete());
  CHECK(read_file(e->data_path(), 100).value() == content);
  CHECK((std::filesystem::status(e->data_path()).permissions() &
         std::filesystem::perms::owner_write) == std::filesystem::perms::none);
}

TEST_CASE("cache_entry: a wrong digest throws all parts away, a damaged record counts as nothing") {
  TempDir dir;
  {
    auto e = entry_of(dir, 8, 4);
    REQUIRE(e->prepare().ok());
    REQUIRE(e->write(0, "abcdefgh").ok());
    REQUIRE(e->mark(0).ok());
    REQUIRE(e->mark(1).ok());
    CHECK(e->finish(std::string(16, 'x'), never).error().code == ErrorCode::kCorruptData);
    CHECK(e->whole_bytes() == 0);
    CHECK(e->finish(std::string(16, 'x'), [] { return true; }).error().code ==
          ErrorCode::kCancelled);
  }
  for (const std::string record :
       {"", "garbage", "bp-ranges 1 8 4\n1", "bp-ranges 1 9 4\n11", "bp-ranges 1 8 4\n111"}) {
    INFO(record);
    REQUIRE(write_file_atomic(dir / "key/ranges", record).ok());
    auto e = entry_of(dir, 8, 4);
    REQUIRE(e->prepare().ok());
    CHECK(e->whole_bytes() == 0);
  }
}

TEST_CASE("cache_entry: a second opener waits and gives up when it is cancelled") {
  TempDir dir;
  auto first = entry_of(dir, 8, 4);
  int polls = 0;
  auto second = CacheEntry::open(dir.path(), "key", 8, 4, [&] { return ++polls > 1; });
  CHECK(second.error().code == ErrorCode::kCancelled);
  first.reset();
  CHECK(CacheEntry::open(dir.path(), "key", 8, 4, never).ok());
}

TEST_CASE("cache_entry: keys differ by what the content may differ by") {
  const fetch::ObjectInfo o{"name", 5, "etag", "XUFAKrxLKna5cZ2REBfFkg=="};
  CHECK(cache_key(o, "a") == cache_key(o, "b"));  // the digest names the content
  fetch::ObjectInfo p = o;
  p.md5_base64.clear();
  CHECK(cache_key(p, "a") != cache_key(p, "b"));
  p = o;
  p.size_bytes = 6;
  CHECK(cache_key(p, "a") != cache_key(o, "a"));
  p = o;
  p.etag = "other";
  CHECK(cache_key(p, "a") != cache_key(o, "a"));
  CHECK(decode_md5("not base64!").empty());
  CHECK(decode_md5("XUFAKrxLKna5cZ2REBfFkg==-3").empty());
  CHECK(decode_md5("").empty());
}

TEST_CASE("state_store: state comes back, of another node or no state at all it is refused") {
  TempDir dir;
  {
    auto s = StateStore::open(dir / "s", "n1-0", "run-1");
    REQUIRE(s.ok());
    s->state().mutable_newest_epoch()->set_counter(7);
    s->state().add_processes()->mutable_status()->set_process_key("head");
    REQUIRE(s->save().ok());
  }
  auto s = StateStore::open(dir / "s", "n1-0", "run-1");
  REQUIRE(s.ok());
  CHECK(s->state().newest_epoch().counter() == 7);
  CHECK(s->find("head") != nullptr);
  s->erase("head");
  CHECK(s->find("head") == nullptr);
  CHECK(StateStore::open(dir / "s", "n1-1", "run-1").error().code == ErrorCode::kConflict);
  REQUIRE(write_file_atomic(dir / "s", "\xff\xff nonsense").ok());
  CHECK(StateStore::open(dir / "s", "n1-0", "run-1").error().code == ErrorCode::kCorruptData);
}

TEST_CASE("memory: a config is sealed, a lease page begins without a lease") {
  auto fd = make_sealed_config("secret config");
  REQUIRE(fd.ok());
  CHECK(::pwrite(fd->get(), "x", 1, 0) == -1);
  char text[32] = {};
  CHECK(::read(fd->get(), text, sizeof text) == 13);
  auto lease = Lease::make("rank-0");
  REQUIRE(lease.ok());
  CHECK(lease->deadline_ns() == 0);
}

TEST_CASE("memory: a segment with another size or of an older epoch is made anew") {
  TempDir dir;
  auto store = StateStore::open(dir / "s", "n", "r").value();
  Segments segments(store);
  auto inode = [](int fd) {
    struct stat st {};
    ::fstat(fd, &st);
    return st.st_ino;
  };
  v1::Segment kept, comm;
  kept.set_name("kv-0");
  comm.set_name("comm-0");
  comm.set_size_bytes(4096);
  comm.set_drop_with_epoch(true);
  const auto kept_inode = inode(segments.get(kept, {1, 1}).value()),
             comm_inode = inode(segments.get(comm, {1, 1}).value());
  CHECK(inode(segments.get(kept, {1, 2}).value()) == kept_inode);
  CHECK(inode(segments.get(comm, {1, 1}).value()) == comm_inode);
  CHECK(inode(segments.get(comm, {1, 2}).value()) != comm_inode);
  kept.set_size_bytes(100);
  CHECK(inode(segments.get(kept, {1, 2}).value()) != kept_inode);
  kept.set_name("UP");
  CHECK(segments.get(kept, {1, 2}).error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("daemon_link: the endpoint file is two lines") {
  TempDir dir;
  const std::string key(40, 'k');
  REQUIRE(write_file_atomic(dir / "f", "tcp://127.0.0.1:1\n" + key + "\n").ok());
  auto a = read_daemon_file(dir / "f");
  REQUIRE(a.ok());
  CHECK(a->endpoint == "tcp://127.0.0.1:1");
  CHECK(a->public_key == key);
  for (const std::string bad : {"", "x", "tcp://127.0.0.1:1\nshort\n", "http://x\n"}) {
    REQUIRE(write_file_atomic(dir / "f", bad).ok());
    CHECK(read_daemon_file(dir / "f").error().code == ErrorCode::kCorruptData);
  }
  CHECK(read_daemon_file(dir / "none").error().code == ErrorCode::kNotFound);
}

TEST_CASE("process_checks: a log's tail begins at a line and shows no token") {
  TempDir dir;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "line " + std::to_string(i) + "\n";
  text += "get http://h/p/SECRET/n/x\n\xff";
  REQUIRE(write_file_atomic(dir / "log", text).ok());
  const std::string tail = log_tail(dir / "log", 200);
  CHECK(tail.substr(0, 5) == "line ");
  CHECK(tail.find("SECRET") == std::string::npos);
  CHECK(tail.back() == '?');
  CHECK(log_tail(dir / "none", 200).empty());
}
