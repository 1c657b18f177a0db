// Stands in for bp-head and bp-rank: does what the lines of its config (fd 3) say, then waits for a
// signal.
//   print TEXT | ignore-term | exit CODE | lease MS | put SEGMENT TEXT | show SEGMENT | close
//   SEGMENT
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sstream>
#include <string>

#include "engine/base/lease_page.h"

namespace {

std::string read_config() {
  std::string out;
  char buffer[4096];
  for (ssize_t n; (n = ::read(3, buffer, sizeof buffer)) > 0;)
    out.append(buffer, static_cast<size_t>(n));
  return out;
}

void lease(long ms) {
  void* at = ::mmap(nullptr, bp::LeasePage::kSize, PROT_READ | PROT_WRITE, MAP_SHARED, 4, 0);
  if (at == MAP_FAILED) std::exit(90);
  auto* page = static_cast<bp::LeasePage*>(at);
  if (page->magic != bp::LeasePage::kMagic) std::exit(91);
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  page->deadline_ns = now.tv_sec * 1'000'000'000L + now.tv_nsec + ms * 1'000'000L;
}

void run(const std::string& verb, std::istringstream& rest) {
  if (verb == "print") {
    std::string text;
    std::getline(rest, text);
    std::printf("%s\n", text.c_str());
  } else if (verb == "ignore-term") {
    ::signal(SIGTERM, SIG_IGN);
  } else if (verb == "exit") {
    int code = 0;
    rest >> code;
    std::fflush(stdout);
    std::_Exit(code);
  } else if (verb == "lease") {
    long ms = 0;
    rest >> ms;
    lease(ms);
  } else if (verb == "put") {
    int segment = 0;
    std::string text;
    rest >> segment >> text;
    if (::pwrite(5 + segment, text.data(), text.size(), 0) < 0) std::exit(92);
  } else if (verb == "show") {
    int segment = 0;
    rest >> segment;
    char text[64] = {};
    struct stat st {};
    ::fstat(5 + segment, &st);
    (void)!::pread(5 + segment, text, sizeof text - 1, 0);
    std::printf("segment %d: size %lld \"%s\"\n", segment, static_cast<long long>(st.st_size),
                text);
  } else if (verb == "close") {
    int segment = 0;
    rest >> segment;
    ::close(5 + segment);
  }
}

}  // namespace

int main(int, char** argv) {
  const int seals = ::fcntl(3, F_GET_SEALS);
  std::printf("started %s sealed=%d key=%s epoch=%s\n", argv[0], (seals & F_SEAL_WRITE) != 0,
              std::getenv("BP_PROCESS_KEY"), std::getenv("BP_PROCESS_EPOCH"));
  const char* replaces = std::getenv("BP_REPLACES");
  const char* whole = std::getenv("BP_MEMORY_WHOLE");
  if (replaces) std::printf("whole=%s replaces=%s\n", whole ? whole : "", replaces);
  std::istringstream config(read_config());
  for (std::string line; std::getline(config, line);) {
    std::istringstream rest(line);
    std::string verb;
    rest >> verb >> std::ws;
    run(verb, rest);
  }
  std::printf("ready\n");
  std::fflush(stdout);
  ::alarm(120);  // never outlives a broken test for long
  for (;;) ::pause();
}
