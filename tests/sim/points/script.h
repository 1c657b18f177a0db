// Script: what the clients of one history do, and the workflows they use; all from a seed. The same
// script finishes a history with and without a crash in it: it repeats what was not acknowledged,
// under the same keys, until everything has ended.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/points/world.h"

namespace bp::sim {

/// What a history is made of. Shrinking makes these smaller.
struct Recipe {
  uint64_t seed = 1;
  int runs = 2;          // at most
  int stages = 4;        // at most
  bool builtin = true;   // may be deployments (recipe, teardown, a stage that serves)
  bool commands = true;  // pause, resume, signal, cancel, fork, retry
  bool trouble = true;   // hosts fail, messages are lost
  bool maps = true, waits = true, own = true, shared = true;
  std::string to_string() const;
};

class Script {
 public:
  Script(PointsWorld& world, const Recipe& recipe);
  /// Runs to the end: false when something is stuck; the ledger then says what.
  bool run();

 private:
  struct Order;  // one run that a client wants
  struct Command {
    std::string kind, key;
    int64_t at_ms = 0;
    bool done = false, asked = false;
    uint64_t life = 0;
  };
  void make_orders();
  v1::WorkflowDefinition make_workflow(const std::string& name);
  void tick();
  void submit(Order& order);
  void command(Order& order, Command& command);
  bool ended(const Order& order);
  bool all_over();

  PointsWorld& world_;
  Recipe recipe_;
  std::mt19937_64 random_;
  std::vector<std::shared_ptr<Order>> orders_;
  uint64_t pick(uint64_t low, uint64_t high) { return low + random_() % (high - low + 1); }
};

}  // namespace bp::sim
