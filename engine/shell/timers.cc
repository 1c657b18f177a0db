#include "engine/shell/timers.h"

#include <algorithm>

namespace bp::shell {

Timers::~Timers() {
  for (auto& [key, a] : armed_) world_.executor.cancel(a.id);
}

Timers::Key Timers::key_of(const storage::TimerRow& r) {
  return {r.run_id, r.stage, r.map_index, r.kind};
}

void Timers::update(const std::vector<storage::TimerRow>& put,
                    const std::vector<storage::TimerRow>& drop) {
  for (const auto& row : drop) {
    auto it = armed_.find(key_of(row));
    if (it == armed_.end()) continue;
    world_.executor.cancel(it->second.id);
    armed_.erase(it);
  }
  for (const auto& row : put) {
    const Key key = key_of(row);
    auto it = armed_.find(key);
    if (it != armed_.end()) world_.executor.cancel(it->second.id);
    const int64_t left = std::max<int64_t>(0, row.due_boot_ms - world_.clock.boot_ms());
    armed_[key] = Armed{row, world_.executor.after(left, [this, key] { due(key); })};
  }
}

void Timers::due(const Key& key) {
  auto it = armed_.find(key);
  if (it == armed_.end()) return;
  const int64_t left = it->second.row.due_boot_ms - world_.clock.boot_ms();
  if (left > 0) {  // clocks of executor and boot may differ by a rounding
    it->second.id = world_.executor.after(left, [this, key] { due(key); });
    return;
  }
  storage::TimerRow row = std::move(it->second.row);
  armed_.erase(it);
  fire_(row);
}

void Timers::forget_run(const std::string& run_id) {
  for (auto it = armed_.lower_bound(Key{run_id, "", 0, 0});
       it != armed_.end() && std::get<0>(it->first) == run_id;) {
    world_.executor.cancel(it->second.id);
    it = armed_.erase(it);
  }
}

}  // namespace bp::shell
