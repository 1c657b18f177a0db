// Run only where cpuid has what this file is compiled for: see CMakeLists.txt.
#if defined(__x86_64__)
#include <immintrin.h>

#include "runtime/ops/kernel_types.h"
#include "runtime/ops/ops.h"

namespace bp::rt {
namespace {
constexpr const char* kOpsName = "avx512-vnni";
}  // namespace

#include "runtime/ops/avx512.inl"
#include "runtime/ops/kernels.inl"

const Ops& avx512_ops() {
  static const VectorOps ops;
  return ops;
}

}  // namespace bp::rt
#endif
