// CPU microseconds of a shared stage host for one attempt of a stage that does nothing, with 256 bytes in
// and out, `in_flight` attempts at a time, acknowledged in batches. Usage: bench_host BIN_DIR PLUGIN IN_FLIGHT TOTAL
#include <cstdio>
#include <cstdlib>

#include "tests/integration/stage_host/shared_daemon.h"

using bp::test::SharedDaemon;

namespace {

// Time on CPUs of all threads, nanoseconds.
uint64_t cpu_ns(const bp::ProcessId& id) {
  const clockid_t clock = static_cast<clockid_t>((~static_cast<unsigned>(id.pid) << 3) | 2);
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const uint64_t in_flight = std::strtoull(argv[3], nullptr, 10), total = std::strtoull(argv[4], nullptr, 10);
  SharedDaemon d(std::string(argv[1]) + "/bp-stage-host", argv[2], 1024);
  const std::string payload(256, 'p');
  uint64_t sent = 0, ended = 0;
  const auto feed = [&](uint64_t count) {
    bp::v1::StageBatch batch;
    for (uint64_t i = 0; i < count; ++i) SharedDaemon::add_run(batch, ++sent, {}, "");
    for (auto& m : *batch.mutable_messages()) {
      m.mutable_run()->mutable_inputs()->clear();
      (*m.mutable_run()->mutable_inputs())["payload"] = payload;
    }
    if (count) d.send(batch);
  };
  if (!d.pump([&] { return !d.hellos.empty(); })) return 1;
  uint64_t warm = total / 10, begin_ns = 0, begin_wall = 0, begin_ended = 0;
  feed(in_flight);
  while (ended < total + warm) {
    if (!d.pump([&] { return !d.results.empty(); })) return 1;
    const uint64_t got = d.results.size();
    d.results.clear();
    d.last.clear();
    ended += got;
    if (begin_ns == 0 && ended >= warm) {
      begin_ended = ended;
      begin_ns = cpu_ns(d.host);
      begin_wall = static_cast<uint64_t>(bp::monotonic_ns());
    }
    feed(got);
  }
  const double n = static_cast<double>(ended - begin_ended);
  std::printf("{\"host_attempt_us\": %.3f, \"wall_attempt_us\": %.3f, \"attempts\": %.0f}\n",
              static_cast<double>(cpu_ns(d.host) - begin_ns) / n / 1000,
              static_cast<double>(static_cast<uint64_t>(bp::monotonic_ns()) - begin_wall) / n / 1000, n);
  return 0;
}
