// Versions of plugins by content: what new runs take, what pinned runs keep.
#include <catch2/catch.hpp>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/shell/plugin_registry.h"

using namespace bp;
using bp::shell::PluginFiles;

namespace {

struct Folders {
  std::string path = "/tmp/" + random_id("bppf");
  Folders() { REQUIRE(make_dirs(path + "/installed").ok()); }
  ~Folders() { (void)remove_tree(path); }
  void install(const std::string& file, const std::string& text) {
    REQUIRE(write_file_atomic(path + "/installed/" + file, text).ok());
  }
  PluginFiles files() { return PluginFiles(path + "/installed", path + "/kept"); }
};

}  // namespace

TEST_CASE("a pinned run keeps its version when the installed file is replaced") {
  Folders f;
  f.install("greet.so", "one");
  auto files = f.files();
  auto first = files.pin("greet");
  REQUIRE(first.ok());
  f.install("greet.so", "two, longer");
  auto second = files.pin("greet");
  REQUIRE(second.ok());
  CHECK(first->hash != second->hash);
  CHECK(*read_file(files.path_of("greet", first->hash).value(), 100) == "one");
  CHECK(*read_file(files.path_of("greet", second->hash).value(), 100) == "two, longer");
  CHECK(*read_file(files.path_of("greet", "").value(), 100) == "two, longer");
  // Another instance, as after a restart.
  CHECK(*read_file(f.files().path_of("greet", first->hash).value(), 100) == "one");
  CHECK(files.drop_unused({first->hash}) == 1);
  CHECK(files.path_of("greet", first->hash).ok());
  CHECK(files.path_of("greet", second->hash).ok());  // it is the installed one
  CHECK(files.drop_unused({}) == 1);
  auto gone = files.path_of("greet", first->hash);
  REQUIRE_FALSE(gone.ok());
  CHECK_THAT(gone.error().message, Catch::Contains(first->hash) && Catch::Contains("greet"));
}

TEST_CASE("a registered version is current until the installed one is again") {
  Folders f;
  f.install("greet.so", "installed");
  REQUIRE(make_dirs(f.path + "/new").ok());
  REQUIRE(write_file_atomic(f.path + "/new/greet.so", "registered").ok());
  auto files = f.files();
  auto kept = files.keep(f.path + "/new/greet.so");
  REQUIRE(kept.ok());
  CHECK(files.current("greet")->hash != kept->hash);
  REQUIRE(files.make_current("greet", kept->hash).ok());
  CHECK(files.current("greet")->hash == kept->hash);
  CHECK(f.files().current("greet")->hash == kept->hash);
  CHECK(files.drop_unused({}) == 0);
  auto all = files.list();
  REQUIRE(all.size() == 2);
  CHECK(all[0].current);
  CHECK_FALSE(all[1].current);
  REQUIRE(files.make_current("greet", "").ok());
  CHECK(*read_file(files.current("greet")->path, 100) == "installed");
  CHECK(files.make_current("greet", "0123").error().code == ErrorCode::kNotFound);
}

TEST_CASE("stages in Python lie beside those in C++; names lead nowhere else") {
  Folders f;
  f.install("greet.py", "text");
  auto files = f.files();
  CHECK_THAT(files.current("greet")->path, Catch::EndsWith("/greet.py"));
  CHECK_THAT(files.pin("greet")->path, Catch::EndsWith(".py"));
  f.install("greet.so", "both");
  CHECK_THAT(files.current("greet")->path, Catch::EndsWith("/greet.so"));
  CHECK(files.current("nobody").error().code == ErrorCode::kNotFound);
  CHECK(files.current("../installed/greet").error().code == ErrorCode::kNotFound);
  CHECK(files.path_of("greet", "../../installed/greet").error().code == ErrorCode::kNotFound);
  CHECK(files.keep(f.path + "/installed/greet.txt").error().code == ErrorCode::kInvalidArgument);
}
