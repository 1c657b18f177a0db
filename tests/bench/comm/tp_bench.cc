// Two ranks against one: the model runner over TP ranks of one thread each in processes of their own, that share
// memory as on one node, and the same with one rank on one core.
//   bench_tp MODEL [STEPS] [PROMPT]
// One line of JSON: tokens a second of one stream and of a prompt for both, and what two bring.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/comm/groups.h"
#include "runtime/comm/shm_segment.h"
#include "runtime/models/model_runner.h"

namespace {

using namespace bp;
using namespace bp::rt;

struct Speed { double decode = 0, prompt = 0; };

constexpr uint32_t kBlock = 16, kContext = 128;

std::span<std::byte> memory(uint64_t bytes) {
  void* p = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) std::exit(2);
  return {static_cast<std::byte*>(p), bytes};
}

template <class T>
T must(Result<T> r) {
  if (r.ok()) return std::move(*r);
  std::fprintf(stderr, "%s\n", r.error().to_string().c_str());
  ::_exit(3);
}

v1::Step make_step(uint64_t number, uint32_t position, const std::vector<uint32_t>& tokens) {
  v1::Step step;
  step.set_number(number);
  auto* s = step.add_sequences();
  s->set_sequence_id(1);
  for (uint32_t t : tokens) s->add_tokens(t);
  s->set_position(position);
  for (uint32_t b = 0; b <= (position + tokens.size()) / kBlock; ++b) s->add_blocks(b);
  s->set_sample(true);
  return step;
}

std::vector<uint32_t> text(uint32_t n, uint32_t seed) {
  std::vector<uint32_t> out;
  for (uint32_t i = 0; i < n; ++i) out.push_back((i * 977 + seed * 131 + 504) % 49152);
  return out;
}

/// The steps do not depend on what was sampled, so that all ranks know them beforehand.
Speed measure(ModelRunner& runner, uint32_t steps, uint32_t prompt) {
  Speed speed;
  uint64_t number = 0;
  const auto run = [&](uint32_t position, const std::vector<uint32_t>& tokens) {
    const v1::Step step = make_step(++number, position, tokens);
    const int64_t begin = monotonic_ns();
    (void)must(runner.execute(step));
    return static_cast<double>(monotonic_ns() - begin) * 1e-9;
  };
  run(0, text(kContext, 1));
  std::vector<double> times;
  for (uint32_t i = 0; i < steps; ++i) times.push_back(run(kContext + i, text(1, i)));
  std::nth_element(times.begin(), times.begin() + steps / 2, times.end());
  speed.decode = 1 / times[steps / 2];
  double best = 1e9;
  for (uint32_t i = 0; i < 5; ++i) best = std::min(best, run(0, text(prompt, i)));
  speed.prompt = prompt / best;
  return speed;
}

Speed with_ranks(const WeightSource& source, uint32_t tp, uint32_t steps, uint32_t prompt) {
  auto plan = must(plan::make_shard_plan(source.config().shape, tp, 1));
  const uint32_t blocks = std::max(kContext + steps, prompt) / kBlock + 2;
  Fd segment(::memfd_create("bench", MFD_CLOEXEC));
  if (::ftruncate(segment.get(), static_cast<off_t>(shm_segment_bytes_min(2) + (4 << 20))) != 0) std::exit(2);
  auto door = must(DataListener::open("127.0.0.1"));
  auto* result = reinterpret_cast<Speed*>(memory(4096).data());
  std::vector<pid_t> children;
  for (uint32_t rank = 0; rank < tp; ++rank) {
    const pid_t child = ::fork();
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    GroupsOptions g;
    g.epoch = {1, 1};
    g.rank = rank;
    for (uint32_t r = 0; r < tp; ++r) g.members.push_back({r, 0, "n0", door.endpoint()});
    g.listener = &door;
    g.comm_fd = segment.get();
    g.data_key = Secret(std::string(32, 'k'));
    g.deadline = Deadline::in_ms(20'000);
    g.busy_threads = tp;
    Groups groups = must(form_groups(g));
    RunnerOptions o;
    o.plan = plan;
    o.rank = rank;
    o.kv_block_tokens = kBlock;
    o.kv_blocks = blocks;
    o.threads = 1;
    RunnerMemory m{memory(must(weights_segment_bytes(source, plan, rank, false))),
                   memory(kv_segment_bytes(plan, rank, kBlock, blocks, false))};
    bool reused = false;
    auto runner = must(ModelRunner::load(source, o, m, {groups.tp.get(), groups.pp.get()}, {}, &reused));
    if (!groups.tp->barrier(Deadline::in_ms(20'000)).ok()) ::_exit(3);
    const Speed speed = measure(*runner, steps, prompt);
    if (rank == 0) *result = speed;
    ::_exit(0);
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) std::exit(3);
  }
  return *result;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_tp MODEL [STEPS] [PROMPT]\n");
    return 2;
  }
  const auto steps = static_cast<uint32_t>(argc > 2 ? std::atoi(argv[2]) : 150);
  const auto prompt = static_cast<uint32_t>(argc > 3 ? std::atoi(argv[3]) : 512);
  if (steps == 0 || prompt == 0) return 2;
  auto source = must(open_weights(argv[1]));
  const Speed one = with_ranks(*source, 1, steps, prompt), two = with_ranks(*source, 2, steps, prompt);
  std::printf("{\"decode_1\": %.1f, \"decode_2\": %.1f, \"decode_speedup\": %.3f, "
              "\"prompt_1\": %.1f, \"prompt_2\": %.1f, \"prompt_speedup\": %.3f}\n",
              one.decode, two.decode, two.decode / one.decode, one.prompt, two.prompt, two.prompt / one.prompt);
  return 0;
}
