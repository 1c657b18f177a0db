// Two ranks of one thread each, in processes of their own, against one rank or against the same two elsewhere:
//   bench_tp MODEL [STEPS] [PROMPT]                    two tensor ranks of one node against one rank
//   bench_tp MODEL STEPS PROMPT tp|pp NETNS0 NETNS1    two ranks, tensor or pipeline, in one node against one in each
//                                                      of two network namespaces (10.77.0.1 and .2 there): over TCP
// One line of JSON: tokens a second of one stream and of a prompt for both, and the second by the first.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/comm/groups.h"
#include "runtime/comm/shm_segment.h"
#include "runtime/comm/spin.h"
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

/// What the processes of one measurement share.
struct Shared {
  Speed speed;
  std::atomic<uint64_t> steps_done;     // by the last stage: the first begins no step before
  char endpoint[2][64];
  std::atomic<uint32_t> told;           // endpoints
};

struct Layout {
  uint32_t tp = 1, pp = 1;
  std::vector<std::string> namespaces;  // by rank; none: all in one node
};

/// The tokens of a step do not depend on what was sampled, so that all ranks know them beforehand, but as with a head
/// none begins before the one before is done.
Speed measure(ModelRunner& runner, const Layout& layout, uint32_t rank, Shared& shared, uint32_t steps,
              uint32_t prompt) {
  Speed speed;
  uint64_t number = 0;
  const auto run = [&](uint32_t position, const std::vector<uint32_t>& tokens) {
    const v1::Step step = make_step(++number, position, tokens);
    const int64_t begin = monotonic_ns();
    (void)must(runner.execute(step));
    if (rank + 1 == layout.pp) shared.steps_done.store(number);
    const Deadline deadline = Deadline::in_ms(20'000);
    for (Spinner s({2'000, 20'000'000'000}); layout.pp > 1 && shared.steps_done.load() < number && s.again();) {
      if (deadline.passed()) ::_exit(4);
    }
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

void enter(const std::string& name) {
  Fd ns(::open(("/run/netns/" + name).c_str(), O_RDONLY | O_CLOEXEC));
  if (ns && ::setns(ns.get(), CLONE_NEWNET) == 0) return;
  std::perror(name.c_str());
  ::_exit(2);
}

Groups form(const Layout& layout, uint32_t rank, int segment, Shared& shared) {
  const bool apart = !layout.namespaces.empty();
  if (apart) enter(layout.namespaces[rank]);
  auto door = must(DataListener::open(apart ? "10.77.0." + std::to_string(rank + 1) : "127.0.0.1"));
  std::snprintf(shared.endpoint[rank], sizeof shared.endpoint[rank], "%s", door.endpoint().c_str());
  const uint32_t ranks = layout.tp * layout.pp;
  shared.told.fetch_add(1);
  const Deadline deadline = Deadline::in_ms(20'000);
  while (shared.told.load() < ranks && !deadline.passed()) ::usleep(1'000);
  GroupsOptions g;
  g.epoch = {1, 1};
  g.rank = rank;
  for (uint32_t r = 0; r < ranks; ++r) {
    g.members.push_back({r % layout.tp, r / layout.tp, apart ? "n" + std::to_string(r) : "n0", shared.endpoint[r]});
  }
  g.listener = &door;
  g.comm_fd = segment;
  g.data_key = Secret(std::string(32, 'k'));
  g.deadline = deadline;
  g.busy_threads = ranks;
  return must(form_groups(g));
}

void be_rank(const WeightSource& source, const Layout& layout, uint32_t rank, int segment, Shared& shared,
             uint32_t steps, uint32_t prompt) {
  Groups groups = form(layout, rank, segment, shared);
  RunnerOptions o;
  o.plan = must(plan::make_shard_plan(source.config().shape, layout.tp, layout.pp));
  o.rank = rank;
  o.kv_block_tokens = kBlock;
  o.kv_blocks = std::max(kContext + steps, prompt) / kBlock + 2;
  o.threads = 1;
  RunnerMemory m{memory(must(weights_segment_bytes(source, o.plan, rank, false))),
                 memory(kv_segment_bytes(o.plan, rank, kBlock, o.kv_blocks, false))};
  bool reused = false;
  auto runner = must(ModelRunner::load(source, o, m, {groups.tp.get(), groups.pp.get()}, {}, &reused));
  if (!(layout.tp > 1 ? groups.tp : groups.pp)->barrier(Deadline::in_ms(20'000)).ok()) ::_exit(3);
  const Speed speed = measure(*runner, layout, rank, shared, steps, prompt);
  if (rank == 0) shared.speed = speed;
}

Speed with_ranks(const WeightSource& source, const Layout& layout, uint32_t steps, uint32_t prompt) {
  Fd segment(::memfd_create("bench", MFD_CLOEXEC));
  if (::ftruncate(segment.get(), static_cast<off_t>(shm_segment_bytes_min(2) + (4 << 20))) != 0) std::exit(2);
  auto& shared = *reinterpret_cast<Shared*>(memory(sizeof(Shared)).data());
  std::vector<pid_t> children;
  for (uint32_t rank = 0; rank < layout.tp * layout.pp; ++rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      be_rank(source, layout, rank, segment.get(), shared, steps, prompt);
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) std::exit(3);
  }
  return shared.speed;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_tp MODEL [STEPS] [PROMPT] [tp|pp NETNS0 NETNS1]\n");
    return 2;
  }
  const auto steps = static_cast<uint32_t>(argc > 2 ? std::atoi(argv[2]) : 150);
  const auto prompt = static_cast<uint32_t>(argc > 3 ? std::atoi(argv[3]) : 512);
  if (steps == 0 || prompt == 0) return 2;
  auto source = must(open_weights(argv[1]));
  Layout first, second{2, 1, {}};
  if (argc > 6) {
    first = second = std::string(argv[4]) == "pp" ? Layout{1, 2, {}} : Layout{2, 1, {}};
    second.namespaces = {argv[5], argv[6]};
  }
  const Speed a = with_ranks(*source, first, steps, prompt), b = with_ranks(*source, second, steps, prompt);
  std::printf("{\"decode_first\": %.1f, \"decode_second\": %.1f, \"decode_speedup\": %.3f, "
              "\"prompt_first\": %.1f, \"prompt_second\": %.1f, \"prompt_speedup\": %.3f}\n",
              a.decode, b.decode, b.decode / a.decode, a.prompt, b.prompt, b.prompt / a.prompt);
  return 0;
}
