// Which implementation runs: chosen once, by what the processor has.
#include <cstdlib>
#include <string_view>

#include "runtime/ops/kernel_types.h"
#include "runtime/ops/ops.h"

namespace bp::rt {

std::vector<const Ops*> usable_ops() {
  std::vector<const Ops*> out;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    if (__builtin_cpu_supports("avx512bf16")) out.push_back(&avx512_bf16_ops());
    out.push_back(&avx512_ops());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    out.push_back(&avx2_ops());
#endif
  out.push_back(&portable_ops());
  return out;
}

const Ops& best_ops() {
  static const Ops& chosen = []() -> const Ops& {
    const auto usable = usable_ops();
    const char* wanted = std::getenv("BP_OPS");
    if (wanted && std::string_view(wanted) == "reference") return reference_ops();
    for (const Ops* ops : usable)
      if (wanted && std::string_view(wanted) == ops->name()) return *ops;
    return *usable.front();
  }();
  return chosen;
}

}  // namespace bp::rt
