// Durable timers: armed from rows of the journal, fed back as TimerFired. Thread: the executor's.
#pragma once
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "engine/shell/world.h"

namespace bp::shell {

class Timers {
 public:
  using Fire = std::function<void(const storage::TimerRow&)>;
  Timers(World& world, Fire fire) : world_(world), fire_(std::move(fire)) {}
  ~Timers();
  void update(const std::vector<storage::TimerRow>& put,
              const std::vector<storage::TimerRow>& drop);
  void forget_run(const std::string& run_id);

 private:
  using Key = std::tuple<std::string, std::string, uint32_t, int>;  // run, stage, map, kind
  static Key key_of(const storage::TimerRow& row);
  void due(const Key& key);

  struct Armed {
    storage::TimerRow row;
    Executor::TimerId id;
  };
  World& world_;
  Fire fire_;
  std::map<Key, Armed> armed_;
};

}  // namespace bp::shell
