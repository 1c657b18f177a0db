// Medians of what one exchange takes, between two processes of this machine:
//   bench_comm shm [FLOATS]   all-reduce of fixed-point sums over shared memory
//   bench_comm tcp [FLOATS]   the same over our encrypted TCP on loopback
//   bench_comm gloo [FLOATS]  Gloo's all-reduce of as many FP32 over TCP on loopback
//   bench_comm steps          a step to a rank and its answer back, through memory
// One line of JSON: {"us": median, "p90_us": ...}.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <poll.h>
#include <string>
#include <vector>

#include "runtime/comm/groups.h"
#include "runtime/comm/shm_segment.h"
#include "runtime/comm/step_channel.h"

namespace bp::bench {
int gloo_times(size_t floats, int rounds, std::vector<double>* us);   // gloo_bench.cc
}

namespace {

using namespace bp;
using namespace bp::rt;

constexpr int kRounds = 20'000;

Deadline soon() { return Deadline::in_ms(20'000); }

void print(std::vector<double> us) {
  us.erase(us.begin(), us.begin() + static_cast<ptrdiff_t>(us.size() / 10));   // while both warm up
  std::sort(us.begin(), us.end());
  std::printf("{\"us\": %.2f, \"p90_us\": %.2f}\n", us[us.size() / 2], us[us.size() * 9 / 10]);
}

/// Both ranks run this; rank 0 takes the times. Exit status.
int reduce(Communicator& c, size_t count, int rounds) {
  std::vector<int64_t> data(count, 1);
  std::vector<double> us;
  if (!c.barrier(soon()).ok()) return 3;
  for (int i = 0; i < rounds; ++i) {
    std::fill(data.begin(), data.end(), 1);
    const int64_t begin = monotonic_ns();
    if (Status s = c.all_reduce_i64(data, soon()); !s.ok()) {
      std::fprintf(stderr, "%s\n", s.error().to_string().c_str());
      return 3;
    }
    us.push_back(static_cast<double>(monotonic_ns() - begin) / 1000);
    if (data[count / 2] != 2) return 4;
  }
  if (c.rank() == 0) print(us);
  return 0;
}

int reduce_between_processes(bool shared, size_t count) {
  const uint64_t bytes = shm_segment_bytes_min(2) + (4 << 20);
  Fd segment(::memfd_create("bench", MFD_CLOEXEC));
  if (::ftruncate(segment.get(), static_cast<off_t>(bytes)) != 0) return 2;
  std::vector<DataListener> doors;
  for (int r = 0; r < 2; ++r) doors.push_back(std::move(*DataListener::open("127.0.0.1")));
  const pid_t child = ::fork();
  GroupsOptions o;
  o.epoch = {1, 1};
  o.rank = child == 0 ? 1 : 0;
  for (uint32_t r = 0; r < 2; ++r) {
    o.members.push_back({r, 0, shared ? "n0" : "n" + std::to_string(r), doors[r].endpoint()});
  }
  o.listener = &doors[o.rank];
  o.comm_fd = segment.get();
  o.data_key = Secret(std::string(32, 'k'));
  o.deadline = soon();
  o.busy_threads = 2;
  auto groups = form_groups(o);
  const int status = groups.ok() ? reduce(*groups->tp, count, shared ? kRounds : kRounds / 10) : 2;
  if (child == 0) ::_exit(status);
  int other = 0;
  ::waitpid(child, &other, 0);
  return status ? status : WEXITSTATUS(other);
}

int steps() {
  auto rank = *RankStepEnd::make({0, 100'000});
  const ProcessId parent = *process_identity(::getpid());
  int told[2];
  if (::pipe(told) != 0) return 2;
  const pid_t child = ::fork();
  const std::string step(200, 's');   // one sequence of a hundred blocks
  if (child == 0) {
    auto head = HeadStepEnd::open(parent, rank->memory_fd(), rank->bell_fd(), rank->nonce());
    if (!head.ok()) ::_exit(2);
    std::vector<double> us;
    std::string got;
    for (int i = 0; i < kRounds; ++i) {
      const int64_t begin = monotonic_ns();
      if (!(*head)->send(step).ok()) ::_exit(3);
      for (;;) {
        (*head)->arm();
        auto there = (*head)->try_receive(&got);
        if (!there.ok() || monotonic_ns() - begin > 5'000'000'000) ::_exit(3);
        if (*there) break;
        pollfd bell{(*head)->bell_fd(), POLLIN, 0};
        (void)::poll(&bell, 1, 1'000);
        (*head)->disarm();
      }
      (*head)->disarm();
      us.push_back(static_cast<double>(monotonic_ns() - begin) / 1000);
    }
    print(us);
    std::fflush(stdout);
    ::_exit(0);
  }
  std::string got;
  for (int i = 0; i < kRounds; ++i) {
    auto there = rank->receive(&got, soon());
    if (!there.ok() || !*there || !rank->send(got).ok()) return 3;
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const size_t count = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 576;
  if (count == 0) return 2;
  if (what == "shm" || what == "tcp") return reduce_between_processes(what == "shm", count);
  if (what == "steps") return steps();
#ifdef BP_BENCH_GLOO
  if (what == "gloo") {
    std::vector<double> us;
    const int status = bp::bench::gloo_times(count, kRounds / 10, &us);
    if (status == 0) print(us);
    return status;
  }
#endif
  std::fprintf(stderr, "usage: bench_comm shm|tcp|gloo|steps [FLOATS]\n");
  return 2;
}
