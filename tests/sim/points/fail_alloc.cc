#include "tests/sim/points/fail_alloc.h"

#include <cstdlib>
#include <new>

#include "tests/sim/points/world.h"

namespace bp::sim {

std::function<bool(uint64_t)> g_on_allocation;
uint64_t g_allocations = 0;

NoFailures::NoFailures() : before(g_in_daemon) { g_in_daemon = false; }
NoFailures::~NoFailures() { g_in_daemon = before; }

namespace {

void* allocate(std::size_t bytes) {
  if (g_in_daemon && g_on_allocation && CrashVfs::inside == 0) {
    NoFailures ours;
    if (g_on_allocation(++g_allocations)) throw std::bad_alloc();
  }
  if (void* p = std::malloc(bytes ? bytes : 1)) return p;
  throw std::bad_alloc();
}

}  // namespace
}  // namespace bp::sim

void* operator new(std::size_t bytes) { return bp::sim::allocate(bytes); }
void* operator new[](std::size_t bytes) { return bp::sim::allocate(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
