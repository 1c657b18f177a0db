// bp-supervisor around small programs that break one limit each.
#include <signal.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/process.h"

using namespace bp;

namespace {

struct Supervised {
  std::string dir = "/tmp/" + random_id("bpsv");
  ProcessId id;
  Supervised(std::vector<std::string> limits, std::vector<std::string> command) {
    REQUIRE(make_dirs(dir + "/exits").ok());
    SpawnOptions o;
    o.program = std::string(BP_BUILD_DIR) + "/bin/bp-supervisor";
    o.args = {"--host-id",    dir.substr(5), "--exit-dir",
              dir + "/exits", "--work-dir",  dir + "/work"};
    o.args.insert(o.args.end(), limits.begin(), limits.end());
    o.args.push_back("--");
    o.args.insert(o.args.end(), command.begin(), command.end());
    o.log_file = dir + "/log";
    auto started = process_spawn(o);
    REQUIRE(started.ok());
    id = *started;
  }
  ~Supervised() {
    (void)process_signal(id, SIGTERM);
    int status = 0;
    ::waitpid(id.pid, &status, 0);
    (void)remove_tree(dir);
  }
  /// What a daemon that was away would read.
  std::string how() {
    CHECK(process_wait_gone(id, Deadline::in_ms(60'000)).ok());
    auto text = read_file(
        dir + "/exits/" + std::to_string(id.pid) + "-" + std::to_string(id.start_ticks), 4096);
    return text.ok() ? *text : "no file";
  }
  std::string log() { return read_file(dir + "/log", 16 << 20).value(); }
};

// A living process with this word in its command line.
bool lives(const std::string& word) {
  std::error_code ec;
  for (const auto& e : std::filesystem::directory_iterator("/proc", ec)) {
    const std::string pid = e.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    auto text = read_file(e.path().string() + "/cmdline", 64 << 10);
    if (text.ok() && text->find(word) != std::string::npos &&
        text->find("bp-supervisor") == std::string::npos && process_identity(std::stoi(pid)).ok()) {
      return true;
    }
  }
  return false;
}

bool comes_true(const std::function<bool()>& what) {
  for (auto until = Deadline::in_ms(5000); !until.passed(); usleep(10'000)) {
    if (what()) return true;
  }
  return what();
}

}  // namespace

TEST_CASE("how a host ended is on record, a clean end excepted") {
  CHECK(Supervised({}, {"/bin/sh", "-c", "exit 3"}).how() == "exited with status 3");
  CHECK(Supervised({}, {"/bin/sh", "-c", "kill -SEGV $$"}).how() ==
        "killed by signal 11 (Segmentation fault)");
  CHECK(Supervised({"--open-files", "64"}, {"/bin/sh", "-c", "kill -ABRT $$"}).how() ==
        "killed by signal 6 (Aborted)");
  CHECK(Supervised({}, {"/bin/true"}).how() == "no file");
  CHECK(Supervised({}, {"/nowhere/program"}).how() == "exited with status 127");
}

TEST_CASE("memory, disk and CPU beyond the limit end the host, and its folder goes") {
  Supervised memory({"--memory-bytes", "50000000"},
                    {"/usr/bin/python3", "-c",
                     "import time\nx=[]\nfor i in range(300):\n x.append(bytearray(10**6))\n "
                     "time.sleep(0.005)\n"});
  CHECK_THAT(memory.how(), Catch::StartsWith("ended by its memory limit") ||
                               Catch::StartsWith("killed by signal 9"));
  Supervised disk({"--disk-bytes", "5000000"},
                  {"/bin/sh", "-c", "dd if=/dev/zero of=big bs=1M count=30 2>/dev/null; sleep 60"});
  CHECK_THAT(disk.how(),
             Catch::StartsWith("ended by its disk quota") && Catch::EndsWith("5 MiB allowed"));
  CHECK_FALSE(std::filesystem::exists(disk.dir + "/work"));
  Supervised cpu({"--cpu-seconds", "1"}, {"/bin/sh", "-c", "while :; do :; done"});
  CHECK_THAT(cpu.how(), Catch::StartsWith("ended by its CPU limit"));
}

TEST_CASE("what a confined host forked ends with it, whatever session it is in") {
  const std::string mark =
      "60." + std::to_string(::getpid());  // of sleep: found by its command line
  Supervised s({"--processes", "20"},
               {"/bin/sh", "-c", "setsid sleep " + mark + " & sleep 0.2; exit 7"});
  CHECK(comes_true([&] { return lives(mark); }));
  CHECK(s.how() == "exited with status 7");
  CHECK(comes_true([&] { return !lives(mark); }));
}

TEST_CASE("a host that forks too much is stopped at its limit") {
  // Two hundred at most, each for a while: no real bomb, in case the limit should fail.
  Supervised s({"--processes", "20"}, {"/usr/bin/python3", "-c",
                                       "import os,time\nn=0\nfor i in range(200):\n try:\n  if "
                                       "os.fork()==0:\n   time.sleep(3); os._exit(0)\n"
                                       "  n+=1\n except OSError: pass\nprint('forked', n, "
                                       "flush=True)\ntime.sleep(0.5)\nos._exit(9)\n"});
  const std::string how = s.how();
  if (how == "exited with status 9") {  // a controller kept it at the limit
    const size_t at = s.log().find("forked ");
    REQUIRE(at != std::string::npos);
    CHECK(std::stoi(s.log().substr(at + 7)) <= 20);
  } else {
    CHECK_THAT(how, Catch::StartsWith("ended by its process limit"));
  }
}

TEST_CASE("a flood of output is cut at the limit") {
  Supervised s({"--log-bytes", "1000"}, {"/bin/sh", "-c", "yes | head -c 3000000; exit 5"});
  CHECK(s.how() == "exited with status 5");
  CHECK(s.log().size() < 4000);
  CHECK_THAT(s.log(), Catch::Contains("log.dropped") && Catch::Contains("bytes=2999000"));
}

TEST_CASE("SIGTERM ends the host; SIGKILL of the supervisor takes the host along") {
  const std::string mark = "61." + std::to_string(::getpid());
  SECTION("term, without limits") {
    Supervised s({}, {"/bin/sleep", mark});
    CHECK(comes_true([&] { return lives(mark); }));
    REQUIRE(process_signal(s.id, SIGTERM).ok());
    CHECK(s.how() == "killed by signal 9 (Killed)");
  }
  SECTION("kill, confined") {
    Supervised s({"--processes", "20"}, {"/bin/sh", "-c", "sleep " + mark + "; true"});
    CHECK(comes_true([&] { return lives(mark); }));
    REQUIRE(process_signal(s.id, SIGKILL).ok());
  }
  CHECK(comes_true([&] { return !lives(mark); }));
}
