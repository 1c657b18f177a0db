#include <catch2/catch.hpp>

#include <signal.h>

#include "engine/base/clock.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/log.h"
#include "engine/base/process.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"

using namespace bp;

namespace {
Result<int> half(int x) {
  if (x % 2) return Error{ErrorCode::kInvalidArgument, "odd", {}};
  return x / 2;
}
Result<int> quarter(int x) {
  BP_ASSIGN(auto h, half(x));
  return half(h);
}
}  // namespace

TEST_CASE("result: an error passes through BP_ASSIGN, a value too") {
  CHECK(*quarter(8) == 2);
  CHECK(quarter(6).error().message == "odd");
}

TEST_CASE("error: names are stable and reversible") {
  CHECK(error_name(ErrorCode::kDiskFull) == "BP_DISK_FULL");
  CHECK(error_code_from_name("BP_DISK_FULL") == ErrorCode::kDiskFull);
  CHECK(error_code_from_name("nonsense") == ErrorCode::kInternal);
}

TEST_CASE("secret: redact hides a PAR token and a password, and leaves the rest") {
  CHECK(redact("GET https://h.example/p/AbC-123/n/ns/b/bk/o/x?y") ==
        "GET https://h.example/p/***/n/ns/b/bk/o/x?y");
  CHECK(redact("http://u:pw@h/x") == "http://***@h/x");
  CHECK(fmt::format("{}", Secret("tok")) == "***");
}

TEST_CASE("files: an atomic write is read back, a bound is kept") {
  const std::string dir = "/tmp/bp-test-" + random_hex(8);
  REQUIRE(make_dirs(dir + "/a/b").ok());
  REQUIRE(write_file_atomic(dir + "/a/b/f", "hello").ok());
  CHECK(*read_file(dir + "/a/b/f", 5) == "hello");
  CHECK(read_file(dir + "/a/b/f", 4).error().code == ErrorCode::kTooLarge);
  CHECK(read_file(dir + "/none", 4).error().code == ErrorCode::kNotFound);
  REQUIRE(remove_tree(dir).ok());
}

TEST_CASE("process: spawn, watch, signal, proof of death") {
  auto child = process_spawn({.program = "/bin/sleep", .args = {"30"}});
  REQUIRE(child.ok());
  CHECK(process_alive(*child));
  auto other = *child;
  other.start_ticks += 1;
  CHECK_FALSE(process_alive(other));
  CHECK(process_wait_gone(*child, Deadline::in_ms(20)).error().code == ErrorCode::kDeadlineExceeded);
  REQUIRE(process_signal(*child, SIGKILL).ok());
  REQUIRE(process_wait_gone(*child, Deadline::in_ms(5000)).ok());
  CHECK_FALSE(process_alive(*child));
}

TEST_CASE("process: an exec failure is an error, and descriptors arrive where asked") {
  CHECK(process_spawn({.program = "/no/such/program"}).error().code == ErrorCode::kNotFound);
  int p[2];
  REQUIRE(::pipe(p) == 0);
  auto child = process_spawn({.program = "/bin/sh", .args = {"-c", "echo hi >&7"}, .fds = {{p[1], 7}}});
  REQUIRE(child.ok());
  ::close(p[1]);
  char buffer[8] = {};
  CHECK(::read(p[0], buffer, sizeof buffer) == 3);
  CHECK(std::string(buffer) == "hi\n");
  ::close(p[0]);
  REQUIRE(process_wait_gone(*child, Deadline::in_ms(5000)).ok());
}

TEST_CASE("ids: canonical names are DNS labels") {
  CHECK(*canonical_name("vLLM Inference_Deployment.1") == "vllm-inference-deployment-1");
  CHECK(*canonical_name("8b") == "d-8b");
  CHECK_FALSE(canonical_name("///").ok());
}

TEST_CASE("process: a program runs only after its identity was written down") {
  const std::string file = "/tmp/bp-test-gate-" + bp::random_hex(6);
  bp::SpawnOptions o;
  o.program = "/usr/bin/touch";
  o.args = {file};
  o.before_exec = [](const bp::ProcessId&) -> bp::Status {
    return bp::Error{bp::ErrorCode::kDiskFull, "cannot write it down", {}};
  };
  auto refused = bp::process_spawn(o);
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == bp::ErrorCode::kDiskFull);
  CHECK(!bp::read_file(file, 10).ok());
  bp::ProcessId seen;
  o.before_exec = [&](const bp::ProcessId& id) -> bp::Status {
    seen = id;
    CHECK(!bp::read_file(file, 10).ok());
    return {};
  };
  auto ran = bp::process_spawn(o);
  REQUIRE(ran.ok());
  CHECK(*ran == seen);
  CHECK(bp::process_wait_gone(*ran, bp::Deadline::in_ms(5000)).ok());
  CHECK(bp::read_file(file, 10).ok());
  ::unlink(file.c_str());
}
