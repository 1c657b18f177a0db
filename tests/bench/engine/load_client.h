// LoadClient: submits runs of one workflow to a daemon in batches, and is told as they end.
// One socket, one thread. Times are CLOCK_MONOTONIC in microseconds.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/bus/bus.h"

namespace bp::bench {

/// Quantiles of a set of values.
struct Samples {
  std::vector<double> values;
  void add(double v) { values.push_back(v); }
  double quantile(double q);  // 0 when there are none
};

struct LoadOptions {
  std::string endpoint, workflow = "six";
  size_t payload_bytes = 256;
};

class LoadClient {
 public:
  explicit LoadClient(LoadOptions options);
  ~LoadClient();

  /// Subscribes to the ends of all runs.
  void watch_ends();
  /// One request with `count` runs; `due_us`: when it ought to have been sent (0: now). Latencies
  /// count from there.
  void submit(size_t count, int64_t due_us = 0);
  /// Takes in replies that arrive until `until_us`; returns as soon as there were some. False: none.
  bool receive(int64_t until_us);

  /// Asks for a list and waits for it: the time that it took. `label`: only runs that have it.
  int64_t list(uint32_t limit, const std::string& label);

  static int64_t now_us();
  size_t in_flight() const { return begun_.size(); }
  size_t unacknowledged() const { return asked_.size(); }

  uint64_t submitted = 0, accepted = 0, refused = 0, ended = 0, failed = 0;
  int64_t retry_after_ms = 0;      // of the last refusal
  Samples ack_us, refusal_us, run_us;
  bool keep_samples = true;

 private:
  struct Asked {
    int64_t at_us;
    size_t count;
  };
  void take(const v1::ClientReply& reply);
  void send(const std::string& request);

  LoadOptions options_;
  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::Dealer> dealer_;
  std::string new_run_;  // serialized, as a member of SubmitRuns
  uint64_t next_request_ = 1;
  std::unordered_map<uint64_t, Asked> asked_;
  std::unordered_map<std::string, int64_t> begun_;  // run id -> when it was submitted
};

}  // namespace bp::bench
