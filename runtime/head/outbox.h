// Outbox: events of sequences on their way from the engine thread to their sinks. What one round of the
// loop gives is handed out in one go, after the next step was sent.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/head/engine_loop.h"

namespace bp::rt {

/// A sequence as its sink sees it. `unwanted` may be set by the engine thread and by the one that runs
/// the sink; from then on the sink is not called.
struct Listener {
  SequenceSink sink;
  std::atomic<bool> unwanted{false};
};

class Outbox {
 public:
  /// `deliver` as in EngineOptions; `unwanted` gets the ids of sequences whose sinks want no more, on
  /// the thread that `deliver` chooses.
  Outbox(std::function<void(std::function<void()>)> deliver,
         std::function<void(std::vector<uint64_t>)> unwanted);
  void token(uint64_t id, std::shared_ptr<Listener> to, SequenceUpdate update);
  void failure(uint64_t id, std::shared_ptr<Listener> to, const Error& error, int64_t retry_after_ms);
  void hand_out();

 private:
  struct Item {
    uint64_t id = 0;
    std::shared_ptr<Listener> to;
    SequenceUpdate update;
    std::optional<Error> error;  // instead of a token
    int64_t retry_after_ms = 0;
  };
  static bool call(Item& item);
  std::function<void(std::function<void()>)> deliver_;
  std::function<void(std::vector<uint64_t>)> unwanted_;
  std::vector<Item> items_;
};

}  // namespace bp::rt
