// Makes allocations of the daemon's code fail: operator new of this program asks g_on_allocation.
#pragma once
#include <cstdint>
#include <functional>

namespace bp::sim {

/// Called for each allocation that code of the daemon makes, with its number; true: it fails with
/// std::bad_alloc. Allocations of the simulation itself, and those below SQLite, are not asked.
extern std::function<bool(uint64_t number)> g_on_allocation;
extern uint64_t g_allocations;

/// In the simulation's own code.
struct NoFailures {
  NoFailures();
  ~NoFailures();
  bool before;
};

}  // namespace bp::sim
