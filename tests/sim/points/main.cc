// sim_points: tries crash points one after the other. See tests/sim/run.sh.
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "engine/base/log.h"
#include "tests/sim/points/explore.h"

using namespace bp::sim;

namespace {

int fail(const Failure& first, const Plan& plan, bool shrinks) {
  std::printf("FAILED: %s\n  at %s\n  %s: %s\n", first.recipe.to_string().c_str(),
              first.where.c_str(), name_of(first.fault), first.text.c_str());
  if (!shrinks) return 1;
  const Failure f = shrink(first, plan);
  // Once more, alone, to keep its disk.
  Plan one = plan;
  one.only = f.point;
  Tally tally;
  explore(f.recipe, one, tally);
  std::printf("shortest: %s --only %llu\n  at %s\n  %s: %s\n", f.recipe.to_string().c_str(),
              static_cast<unsigned long long>(f.point), f.where.c_str(), name_of(f.fault),
              f.text.c_str());
  std::printf("its journal: build/sim/failed/journal.db (bp --state-dir build/sim/failed replay)\n");
  return 1;
}

Recipe recipe_of(uint64_t seed) {
  Recipe r;
  r.seed = seed;
  r.runs = 1 + int(seed % 2);
  r.stages = 1 + int(seed % 4);
  return r;
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  uint64_t seed = 1, only = 0, every = 0;
  bool log = false, as_it_is = false;
  CLI::App app("Tries crash points of whole histories over the real journal.");
  app.add_option("--points", plan.points, "stop after so many");
  app.add_option("--seconds", plan.seconds, "stop after so long, at the end of a history");
  app.add_option("--seed", seed, "of the first history");
  app.add_option("--only", only, "the one point of the first history to try");
  app.add_option("--progress", every, "print a line every so many histories");
  app.add_flag("--no-shrink", as_it_is, "do not look for the shortest history that fails");
  app.add_flag("--log", log, "let the daemon log");
  CLI11_PARSE(app, argc, argv);
  if (only) plan.only = only;
  if (!log) spdlog::set_level(spdlog::level::off);
  ::mkdir("build", 0755);
  ::mkdir("build/sim", 0755);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const auto begin = std::chrono::steady_clock::now();
  auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  Tally t;
  for (;; ++seed) {
    auto failure = explore(recipe_of(seed), plan, t);
    if (failure) return fail(*failure, plan, !as_it_is);
    if (only || t.points >= plan.points) break;
    if (plan.seconds && seconds() > double(plan.seconds)) break;
    if (every && t.histories % every == 0)
      std::printf("%llu points, %llu histories, seed %llu, %.0f points/s\n",
                  static_cast<unsigned long long>(t.points),
                  static_cast<unsigned long long>(t.histories),
                  static_cast<unsigned long long>(seed), double(t.points) / seconds());
  }
  auto n = [](uint64_t v) { return static_cast<unsigned long long>(v); };
  std::printf("%llu histories up to seed %llu; kept %llu, lost %llu, torn %llu, reordered %llu, "
              "EIO %llu, ENOSPC %llu, allocations %llu; a second crash in %llu\n",
              n(t.histories), n(seed), n(t.by_kind[0]), n(t.by_kind[1]), n(t.by_kind[2]),
              n(t.by_kind[3]), n(t.by_kind[4]), n(t.by_kind[5]), n(t.allocations), n(t.pairs));
  std::printf("%llu tried one by one (the others leave the same bytes at the same moment), %llu "
              "ended in std::terminate, %.0f points/s\n",
              n(t.tried), n(t.terminated), double(t.points) / seconds());
  std::printf("%llu crash points, %llu lost, %llu duplicate\n", n(t.points), n(t.lost),
              n(t.duplicate));
  return 0;
}
