#include "engine/shell/secret_box.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "engine/base/files.h"
#include "engine/base/ids.h"

using namespace bp;
using bp::shell::SecretBox;

TEST_CASE("a sealed secret opens only where it belongs") {
  SecretBox box(Secret(std::string(32, 'a')));
  const std::string sealed = box.seal("r-1", "par-0", Secret("https://host/p/token/o/"));
  CHECK(sealed.find("token") == std::string::npos);
  CHECK(box.seal("r-1", "par-0", Secret("https://host/p/token/o/")) != sealed);
  CHECK(box.open("r-1", "par-0", sealed)->reveal() == "https://host/p/token/o/");
  CHECK(box.open("r-2", "par-0", sealed).error().code == ErrorCode::kCorruptData);
  CHECK(box.open("r-1", "par-1", sealed).error().code == ErrorCode::kCorruptData);
  CHECK(SecretBox(Secret(std::string(32, 'b'))).open("r-1", "par-0", sealed).error().code ==
        ErrorCode::kCorruptData);
  for (size_t i : {size_t{0}, sealed.size() / 2, sealed.size() - 1}) {
    std::string bent = sealed;
    bent[i] = static_cast<char>(bent[i] ^ 1);
    CHECK(!box.open("r-1", "par-0", bent).ok());
  }
  CHECK(!box.open("r-1", "par-0", "short").ok());
  CHECK(box.open("r-1", "e", box.seal("r-1", "e", Secret("")))->reveal().empty());
}

TEST_CASE("the key file is made once and must stay private") {
  const std::string dir = "/tmp/bp-shell-" + random_hex(6), path = dir + "/k";
  REQUIRE(make_dirs(dir).ok());
  auto made = shell::load_or_make_secrets_key(path);
  REQUIRE(made.ok());
  CHECK(shell::load_or_make_secrets_key(path)->reveal() == made->reveal());
  REQUIRE(::chmod(path.c_str(), 0640) == 0);
  CHECK(shell::load_or_make_secrets_key(path).error().code == ErrorCode::kPermission);
  REQUIRE(write_file_atomic(path, "too short").ok());
  CHECK(shell::load_or_make_secrets_key(path).error().code == ErrorCode::kCorruptData);
  REQUIRE(remove_tree(dir).ok());
}
