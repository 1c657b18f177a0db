// Rules between fields of a recipe, once each field by itself is sound. Internal to engine/plan.
#pragma once
#include "bp/v1/recipe.pb.h"
#include "engine/plan/field_reader.h"

namespace bp::plan {

/// What the raycluster dialect says twice and the canonical recipe once. 0: had a problem of its
/// own.
struct RayclusterNumbers {
  uint32_t head_cpus = 0, worker_cpus = 0;
  uint32_t head_gpus = 0, worker_gpus = 0;
  uint32_t head_memory_gbs = 0, worker_memory_gbs = 0;
  std::optional<uint32_t> workers;
};

/// Head equals worker, pool size = workers + 1, GPUs, CPUs and memory within the shape, ports
/// distinct, disk sizes in order, mount locations distinct, the model below one of them and not
/// left out.
void check_raycluster_rules(const v1::Recipe& recipe, const RayclusterNumbers& numbers,
                            Problems& problems);

/// "/models" of "/models/" or "//models"; empty when it is not absolute, is "/" or holds "." or
/// "..".
std::string clean_absolute_path(std::string_view path);

/// True when `path` is `folder` or lies below it.
bool lies_below(std::string_view path, std::string_view folder);

/// Whether an include or exclude entry takes `name`: the whole name, a folder of it ("a/b" takes
/// "a/b/c", not "a/bc"), or, with * or ?, a pattern for the whole name in which * also crosses '/'.
bool entry_matches(std::string_view entry, std::string_view name);

}  // namespace bp::plan
