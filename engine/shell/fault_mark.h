// FaultMark: who is being worked on, written down before each apply into memory that outlives the
// process (a mapped file). When the daemon dies twice at the same kind of event of the same run,
// that run is condemned: it is quarantined instead of being tried a third time.
// Thread: the conductor's.
#pragma once
#include <cstdint>

namespace bp::shell {

/// Layout of the file; all zero when new. Plain memory: it survives the process, and need not
/// survive the machine.
struct FaultMark {
  struct Slot {
    volatile uint64_t run_number;
    volatile uint32_t event_type;
    volatile uint32_t deaths;
  };
  Slot current;  // run_number 0: nothing is being applied
  Slot suspect;  // at which an earlier life ended

  /// Once, at start: takes over what the last life left.
  void start() {
    if (current.run_number == 0) return;
    const bool again = suspect.run_number == current.run_number &&
                       suspect.event_type == current.event_type;
    const uint32_t before = again ? suspect.deaths : 0;
    suspect.deaths = before + 1;
    suspect.run_number = current.run_number;
    suspect.event_type = current.event_type;
    current.run_number = 0;
  }
  bool condemned(uint64_t run_number, uint32_t event_type) const {
    return suspect.run_number == run_number && suspect.deaths >= 2 &&
           suspect.event_type == event_type;
  }
  void begin(uint64_t run_number, uint32_t event_type) {
    current.event_type = event_type;
    current.run_number = run_number;
  }
  void end() {
    if (suspect.run_number == current.run_number && suspect.event_type == current.event_type)
      suspect.run_number = 0;
    current.run_number = 0;
  }
};

}  // namespace bp::shell
