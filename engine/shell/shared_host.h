// Inner parts of shared_hosts.h: a host, a pool of them, an attempt.
#pragma once
#include <optional>

#include "engine/shell/shared_hosts.h"

namespace bp::shell {

struct SharedHosts::Host {
  std::string id;
  Pool* pool = nullptr;
  ProcessId process;
  bool fresh = false;      // this daemon started it
  bool on_record = false;  // its identity is durable
  bool greeted = false;    // it has a connection to this daemon
  bool killed = false;
  uint32_t slots = 1;
  size_t held = 0;         // attempts that it has
  uint64_t ended = 0;      // results acknowledged
  int64_t heard_boot_ms = 0;
  std::string out;         // messages of a StageBatch, serialized
  std::vector<uint64_t> acks;
};

struct SharedHosts::Pool {
  std::string plugin;
  uint32_t version = 0;
  std::vector<Host*> hosts;
  std::deque<Id> waiting;            // for a slot
  std::vector<Id> unknown;           // perhaps held by a host that has not said hello yet
  uint32_t deaths = 0;               // in a row, without a result in between
  int64_t spawn_after_boot_ms = 0;
  int64_t full_since_boot_ms = 0;    // 0: no attempt waits
};

struct SharedHosts::Held {
  enum class State : uint8_t { kUnknown, kWaiting, kSent, kResult };
  struct Talk {
    std::optional<v1::Progress> progress;
    std::string checkpoint, handle;  // last ones fed to the journal
    int64_t progress_boot_ms = 0;    // when it last moved
    bool ready_fed = false;
  };
  core::StageKey key;
  Pool* pool = nullptr;
  Host* host = nullptr;
  State state = State::kWaiting;
  bool hung_fed = false;
  uint64_t sequence = 0;             // of its result
  int64_t sent_boot_ms = 0, heard_boot_ms = 0;
  std::unique_ptr<v1::CancelAttempt> cancel;
  std::unique_ptr<Talk> talk;
};

}  // namespace bp::shell
