// Load for the engine's benchmarks: a client of bp-daemon in a process of its own. One JSON object
// on standard output tells what it saw.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

#include "engine/base/log.h"
#include "tests/bench/engine/load_client.h"

using bp::bench::LoadClient;
using bp::bench::LoadOptions;

namespace {

struct Arguments {
  LoadOptions load;
  double seconds = 5, warm_s = 1, rate = 0;
  uint64_t runs = 0;
  size_t in_flight = 512;
};

void print(LoadClient& c, double seconds, uint64_t ended) {
  printf(
      "{\"seconds\": %.3f, \"runs\": %llu, \"runs_per_s\": %.1f, \"submitted\": %llu, "
      "\"accepted\": %llu, \"refused\": %llu, \"failed\": %llu, \"retry_after_ms\": %lld, "
      "\"run_p50_ms\": %.3f, \"run_p99_ms\": %.3f, \"run_max_ms\": %.3f, \"ack_p50_ms\": %.3f, "
      "\"ack_p99_ms\": %.3f, \"refusal_p99_ms\": %.3f}\n",
      seconds, static_cast<unsigned long long>(ended), static_cast<double>(ended) / seconds,
      static_cast<unsigned long long>(c.submitted), static_cast<unsigned long long>(c.accepted),
      static_cast<unsigned long long>(c.refused), static_cast<unsigned long long>(c.failed),
      static_cast<long long>(c.retry_after_ms), c.run_us.quantile(0.5) / 1000,
      c.run_us.quantile(0.99) / 1000, c.run_us.quantile(1) / 1000, c.ack_us.quantile(0.5) / 1000,
      c.ack_us.quantile(0.99) / 1000, c.refusal_us.quantile(0.99) / 1000);
}

/// Keeps `in_flight` runs going, for a time or until so many have ended.
int closed(const Arguments& a) {
  LoadClient c(a.load);
  c.watch_ends();
  c.keep_samples = false;
  c.submit(a.in_flight);
  int64_t begin = LoadClient::now_us() + static_cast<int64_t>(a.warm_s * 1e6);
  int64_t end = begin + static_cast<int64_t>(a.seconds * 1e6);
  uint64_t before = 0;
  int64_t heard = LoadClient::now_us();
  for (;;) {
    const bool some = c.receive(LoadClient::now_us() + 100'000);
    const int64_t now = LoadClient::now_us();
    if (some) heard = now;
    if (now - heard > 20'000'000) {
      fprintf(stderr, "engine_load: nothing heard for 20 s, %zu in flight\n", c.in_flight());
      return 1;
    }
    if (!c.keep_samples && now >= begin) {
      c.keep_samples = true;
      begin = now;
      before = c.ended;
    }
    if (a.runs ? c.ended >= a.runs : now >= end) {
      print(c, static_cast<double>(now - begin) / 1e6, c.ended - before);
      return 0;
    }
    size_t waiting = c.in_flight();
    if (c.unacknowledged() == 0 && waiting < a.in_flight) c.submit(a.in_flight - waiting);
  }
}

/// One run after the other.
int alone(const Arguments& a) {
  LoadClient c(a.load);
  c.watch_ends();
  c.keep_samples = false;
  const uint64_t warm = 50;
  const int64_t begin = LoadClient::now_us();
  for (uint64_t i = 0; i < a.runs + warm; ++i) {
    c.keep_samples = i >= warm;
    c.submit(1);
    while (c.ended <= i) {
      if (!c.receive(LoadClient::now_us() + 20'000'000)) {
        fprintf(stderr, "engine_load: a run did not end within 20 s\n");
        return 1;
      }
    }
  }
  print(c, static_cast<double>(LoadClient::now_us() - begin) / 1e6, c.ended);
  return 0;
}

/// Offers `rate` runs a second whatever comes back, a request each millisecond.
int offered(const Arguments& a) {
  LoadClient c(a.load);
  c.watch_ends();
  c.keep_samples = false;
  const int64_t start = LoadClient::now_us();
  int64_t begin = start + static_cast<int64_t>(a.warm_s * 1e6);
  const int64_t end = begin + static_cast<int64_t>(a.seconds * 1e6);
  uint64_t before = 0;
  double owed = 0;
  const double tick_us = std::max(1000.0, 1e6 / a.rate);
  int64_t sent_until = start;
  for (;;) {
    int64_t now = LoadClient::now_us();
    if (!c.keep_samples && now >= begin) {
      c.keep_samples = true;
      begin = now;
      before = c.ended;
    }
    if (now >= end) break;
    while (sent_until + tick_us <= static_cast<double>(now)) {
      sent_until += static_cast<int64_t>(tick_us);
      owed += a.rate * tick_us / 1e6;
      const auto count = static_cast<size_t>(owed + 1e-9);
      owed -= static_cast<double>(count);
      if (count > 0) c.submit(count, sent_until);
    }
    c.receive(std::min(end, sent_until + static_cast<int64_t>(tick_us)));
  }
  print(c, static_cast<double>(LoadClient::now_us() - begin) / 1e6, c.ended - before);
  return 0;
}

/// Submits `runs` runs and ends when all are acknowledged; they go on.
int leave(const Arguments& a) {
  LoadClient c(a.load);
  const int64_t begin = LoadClient::now_us();
  while (c.accepted < a.runs) {
    if (c.unacknowledged() == 0) c.submit(std::min<uint64_t>(1000, a.runs - c.accepted));
    if (!c.receive(LoadClient::now_us() + 20'000'000)) {
      fprintf(stderr, "engine_load: no answer within 20 s\n");
      return 1;
    }
  }
  print(c, static_cast<double>(LoadClient::now_us() - begin) / 1e6, c.accepted);
  return 0;
}

/// Lists and searches, `runs` times each.
int list(const Arguments& a) {
  LoadClient c(a.load);
  bp::bench::Samples list_us, search_us;
  for (uint64_t i = 0; i < a.runs; ++i) {
    list_us.add(static_cast<double>(c.list(100, {})));
    search_us.add(static_cast<double>(c.list(100, "o" + std::to_string(i * 7 % 1000))));
  }
  printf("{\"list_p50_ms\": %.3f, \"list_p99_ms\": %.3f, \"search_p50_ms\": %.3f, "
         "\"search_p99_ms\": %.3f}\n",
         list_us.quantile(0.5) / 1000, list_us.quantile(0.99) / 1000,
         search_us.quantile(0.5) / 1000, search_us.quantile(0.99) / 1000);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"Load on bp-daemon for its benchmarks"};
  app.add_option("--endpoint", a.load.endpoint, "ipc://RUN_DIR/client.sock")->required();
  app.add_option("--workflow", a.load.workflow);
  app.add_option("--payload", a.load.payload_bytes, "bytes of each run's input");
  app.add_option("--seconds", a.seconds);
  app.add_option("--warm", a.warm_s, "seconds before measuring");
  app.add_option("--runs", a.runs);
  app.add_option("--in-flight", a.in_flight);
  app.add_option("--rate", a.rate, "runs offered a second");
  app.require_subcommand(1);
  auto* is_closed = app.add_subcommand("closed", "keep --in-flight runs going");
  auto* is_alone = app.add_subcommand("alone", "--runs runs, one after the other");
  auto* is_offered = app.add_subcommand("offered", "--rate runs a second, whatever comes back");
  auto* is_leave = app.add_subcommand("leave", "submit --runs runs and go");
  auto* is_list = app.add_subcommand("list", "list and search --runs times");
  app.fallthrough();
  CLI11_PARSE(app, argc, argv);
  bp::log_init("engine_load", "warn");
  if (*is_closed) return closed(a);
  if (*is_alone) return alone(a);
  if (*is_offered) return offered(a);
  if (*is_list) return list(a);
  (void)is_leave;
  return leave(a);
}
