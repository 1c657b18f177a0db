// bp-runtime-bench: the model runner of one rank without scheduler and HTTP. Prints "NAME VALUE" lines:
//   decode.N    tokens a second of N streams that each take a token a step (median step)
//   prompt.N    tokens a second of a prompt of N tokens in one step (best of the runs)
//   roofline    a table of operations: time, bytes of weights, arithmetic, shares of what the machine has
#include <CLI/CLI.hpp>
#include <fmt/format.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "engine/base/clock.h"
#include "runtime/layers/step_profile.h"
#include "runtime/ops/ops.h"
#include "tests/bench/bench_model.h"

namespace bp::test {
namespace {

struct Options {
  std::string model, as = "file";
  uint32_t threads = 2, context = 128, steps = 120;
  bool exact = false;
  std::vector<uint32_t> decode, prompt;
  bool roofline = false;
};

double seconds_since(int64_t start_ns) { return double(monotonic_ns() - start_ns) * 1e-9; }

std::vector<uint32_t> text(uint32_t n, uint32_t seed) {
  std::vector<uint32_t> out;
  for (uint32_t i = 0; i < n; ++i) out.push_back((i * 977 + seed * 131 + 504) % 49152);
  return out;
}

void must(const Status& s) {
  if (s.ok()) return;
  fmt::print(stderr, "{}\n", s.error().to_string());
  std::exit(1);
}

double run_step(BenchModel& m, const v1::Step& step, v1::StepResult* result = nullptr) {
  const int64_t start = monotonic_ns();
  auto done = m.runner().execute(step);
  const double s = seconds_since(start);
  must(done.ok() ? Status() : Status(done.error()));
  if (result) *result = std::move(done).value();
  return s;
}

/// Tokens a second of `streams` streams after a context of options.context tokens each.
double decode(BenchModel& m, const Options& o, uint32_t streams, rt::StepProfile* profile, double* total_s) {
  const uint32_t each = (o.context + o.steps) / BenchModel::kBlockTokens + 2;
  std::vector<uint32_t> next(streams);
  for (uint32_t i = 0; i < streams; ++i) {
    v1::Step step;
    m.add(step, i, each, 0, text(o.context, i), true);
    v1::StepResult r;
    run_step(m, step, &r);
    next[i] = r.tokens(0).token();
  }
  m.runner().measure(profile);
  std::vector<double> times;
  for (uint32_t n = 0; n < o.steps; ++n) {
    v1::Step step;
    for (uint32_t i = 0; i < streams; ++i) m.add(step, i, each, o.context + n, {next[i]}, true);
    v1::StepResult r;
    times.push_back(run_step(m, step, &r));
    *total_s += times.back();
    for (uint32_t i = 0; i < streams; ++i) next[i] = r.tokens(static_cast<int>(i)).token();
  }
  m.runner().measure(nullptr);
  std::nth_element(times.begin(), times.begin() + o.steps / 2, times.end());
  return streams / times[o.steps / 2];
}

double prompt(BenchModel& m, uint32_t tokens, rt::StepProfile* profile, double* total_s) {
  double best = 1e9;
  for (uint32_t run = 0; run < 5; ++run) {
    v1::Step step;
    m.add(step, 0, 0, 0, text(tokens, run), true);
    if (run == 1) m.runner().measure(profile);
    const double s = run_step(m, step);
    if (run > 0) *total_s += s;
    best = std::min(best, s);
  }
  m.runner().measure(nullptr);
  return tokens / best;
}

// ---- what the machine has -----------------------------------------------------------------------------

template <class Fn>
double on_threads(uint32_t threads, Fn fn) {
  const int64_t start = monotonic_ns();
  std::vector<std::thread> all;
  for (uint32_t i = 1; i < threads; ++i) all.emplace_back([&, i] { fn(i); });
  fn(0);
  for (auto& t : all) t.join();
  return seconds_since(start);
}

/// Bytes a second of reading the weights once, the best of some times.
double memory_speed(std::span<const std::byte> bytes, uint32_t threads) {
  double best = 0;
  std::vector<uint64_t> sums(threads * 64);
  for (int run = 0; run < 8; ++run) {
    const size_t share = bytes.size() / threads / 64 * 64;
    const double s = on_threads(threads, [&](uint32_t i) {
      const auto* p = reinterpret_cast<const uint64_t*>(bytes.data() + i * share);
      uint64_t a[8] = {};
      for (size_t k = 0; k < share / 8; k += 8)
        for (int j = 0; j < 8; ++j) a[j] ^= p[k + j];
      for (const uint64_t v : a) sums[i * 64] ^= v;
    });
    best = std::max(best, double(share) * threads / s);
  }
  return best;
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) void vnni_loop(uint64_t n) {
  __m512i w = _mm512_set1_epi8(1), a[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) a[j] = _mm512_set1_epi32(j);   // equal ones would be computed once
  for (uint64_t i = 0; i < n; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) a[j] = _mm512_dpbusd_epi32(a[j], w, w);
    __asm__ volatile("" : "+v"(w));
  }
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) __asm__ volatile("" : : "v"(a[j]));
}
#endif

/// 8-bit operations a second of the VNNI unit; 0 where there is none.
double int8_speed(uint32_t threads) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) {
    constexpr uint64_t kLoops = 20'000'000;
    return double(threads) * kLoops * 12 * 128 / on_threads(threads, [](uint32_t) { vnni_loop(kLoops); });
  }
#endif
  return 0;
}

void print_table(const char* what, const rt::StepProfile& p, double total_s, double memory, double int8) {
  fmt::print("{:<16} {:>7} {:>10} {:>8} {:>7} {:>10} {:>7}\n", what, "share", "MB", "GB/s", "of mem", "Gop/s",
             "of int8");
  double named_s = 0;
  for (size_t i = 0; i < p.costs.size(); ++i) {
    const auto& c = p.costs[i];
    const double s = double(c.ns) * 1e-9;
    named_s += s;
    if (c.ns == 0) continue;
    const double bandwidth = double(c.weight_bytes) / s, speed = double(c.operations) / s;
    fmt::print("{:<16} {:6.1f}% {:10.1f} {:8.1f} {:6.0f}% {:10.1f} {:6.0f}%\n", rt::kStepOpNames[i],
               100 * s / total_s, double(c.weight_bytes) * 1e-6, bandwidth * 1e-9, 100 * bandwidth / memory,
               speed * 1e-9, int8 > 0 ? 100 * speed / int8 : 0);
  }
  fmt::print("{:<16} {:6.1f}%\n", "other", 100 * (total_s - named_s) / total_s);
}

int run(const Options& o) {
  uint32_t most = 1;
  for (const uint32_t n : o.decode) most = std::max(most, n);
  uint32_t blocks = most * ((o.context + o.steps) / BenchModel::kBlockTokens + 2);
  for (const uint32_t n : o.prompt) blocks = std::max(blocks, n / BenchModel::kBlockTokens + 2);
  auto opened = BenchModel::open(o.model, o.as, o.threads, blocks, o.exact);
  must(opened.ok() ? Status() : Status(opened.error()));
  BenchModel& m = **opened;
  fmt::print("kernels {} threads {} weights {} ({:.1f} MB)\n", m.runner().numerics_class(), o.threads, o.as,
             double(m.weights().size()) * 1e-6);
  const double memory = o.roofline ? memory_speed(m.weights(), o.threads) : 0;
  const double int8 = o.roofline ? int8_speed(o.threads) : 0;
  if (o.roofline)
    fmt::print("machine: reads {:.1f} GB/s, VNNI {:.0f} Gop/s\n", memory * 1e-9, int8 * 1e-9);
  for (const uint32_t n : o.decode) {
    rt::StepProfile profile;
    double total_s = 0;
    fmt::print("decode.{} {:.1f}\n", n, decode(m, o, n, o.roofline ? &profile : nullptr, &total_s));
    if (o.roofline) print_table(fmt::format("decode {}", n).c_str(), profile, total_s, memory, int8);
  }
  for (const uint32_t n : o.prompt) {
    rt::StepProfile profile;
    double total_s = 0;
    fmt::print("prompt.{} {:.1f}\n", n, prompt(m, n, o.roofline ? &profile : nullptr, &total_s));
    if (o.roofline) print_table(fmt::format("prompt {}", n).c_str(), profile, total_s, memory, int8);
  }
  return 0;
}

}  // namespace
}  // namespace bp::test

int main(int argc, char** argv) {
  bp::test::Options o;
  const char* home = std::getenv("HOME");
  o.model = std::string(home ? home : "") + "/.cache/bp-daemon/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  CLI::App app("Speed of the model runner");
  app.add_option("--model", o.model, "a .gguf file or a folder with safetensors");
  app.add_option("--as", o.as, "weights as the file has them, or converted")
      ->check(CLI::IsMember({"file", "bf16", "q8_0"}));
  app.add_option("--threads", o.threads);
  app.add_option("--decode", o.decode, "streams")->delimiter(',');
  app.add_option("--prompt", o.prompt, "tokens")->delimiter(',');
  app.add_option("--context", o.context, "tokens before the first decoded one");
  app.add_option("--steps", o.steps, "decoded tokens of each stream");
  app.add_flag("--exact", o.exact, "FP32 activations");
  app.add_flag("--roofline", o.roofline, "time, bytes and arithmetic of each operation");
  CLI11_PARSE(app, argc, argv);
  return bp::test::run(o);
}
