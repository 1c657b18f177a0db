// ProcessTable: the heads and ranks of this node: starts, watches (pidfd), leases, stops, adopts.
// Everything it starts is written down before its program runs (SpawnOptions::before_exec), so a
// crash of the agent at any moment loses no process. Operations on one process key run one after
// the other. Agent's thread only; answers come through callbacks on it.
#pragma once
#include <boost/asio/io_context.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bp/v1/node.pb.h"
#include "engine/base/epoch.h"
#include "engine/base/result.h"
#include "engine/node/memory.h"
#include "engine/node/state_store.h"

namespace bp::node {

struct TableOptions {
  std::string node_id, run_id;
  std::string work_dir;  // absolute
  std::string bin_dir;   // absolute
};

class ProcessTable {
 public:
  using StartDone = std::function<void(Result<v1::ProcessStatus>)>;
  using StopDone = std::function<void(Status)>;
  using Ended = std::function<void(const v1::ProcessEnded&)>;

  /// After SIGKILL a process has this long to be gone, then it counts as a survivor.
  static constexpr int64_t kProofMs = 5'000;

  ProcessTable(boost::asio::io_context& io, StateStore& store, TableOptions options,
               Ended on_ended);
  ~ProcessTable();

  /// Takes over what a predecessor started, and ends what carries this folder's mark but was never
  /// written down. Once, before anything else; blocks up to kProofMs. kNeedsHuman names survivors.
  Status adopt();
  /// The process that runs under the key and epoch, started when there is none. One of an older
  /// epoch is killed and proven dead first. Errors: kInvalidArgument, kStaleEpoch, kNotFound (no
  /// such program), kDiskFull, kDeadlineExceeded (the old one does not die).
  void start(const v1::StartProcess& wanted, Epoch epoch, StartDone done);
  /// SIGTERM, after `grace_ms` SIGKILL, then proof. OK when there is no such process.
  void stop(const std::string& key, int64_t grace_ms, StopDone done);
  /// All of them; `done` gets the texts of those that could not be proven dead.
  void stop_all(int64_t grace_ms, std::function<void(std::vector<std::string>)> done);
  std::vector<v1::ProcessStatus> list() const;
  /// Kills every leased process whose lease has lapsed. Call every 100 ms.
  void check_leases();
  Segments& segments() { return segments_; }
  std::string log_path(const std::string& key) const;

 private:
  struct Entry;
  using EntryPtr = std::shared_ptr<Entry>;
  void run_next(const std::string& key);
  void enqueue(const std::string& key, std::function<void()> operation);
  void finish(const std::string& key);
  void begin_start(const v1::StartProcess& wanted, Epoch epoch, StartDone done);
  /// `predecessor`: the end of the process that this one replaces under the same epoch, or null.
  Result<v1::ProcessStatus> spawn(const v1::StartProcess& wanted, Epoch epoch,
                                  const v1::ProcessEnded* predecessor = nullptr);
  bool may_restart(const EntryPtr& entry, const v1::ProcessEnded& ended);
  void restart(const EntryPtr& entry, v1::ProcessEnded& ended);
  void end_process(const EntryPtr& entry, int64_t grace_ms, const std::string& reason,
                   StopDone done);
  void kill_hard(const EntryPtr& entry);
  void watch(const EntryPtr& entry);
  void gone(const EntryPtr& entry);
  Status adopt_one(const v1::KnownProcess& known);
  void note_ended(v1::ProcessEnded ended);
  EntryPtr insert(const v1::KnownProcess& known, bool child);

  boost::asio::io_context& io_;
  StateStore& store_;
  const TableOptions options_;
  Ended on_ended_;
  Segments segments_;
  std::map<std::string, EntryPtr> entries_;
  std::map<std::string, std::deque<std::function<void()>>> queues_;  // the first one is running
  std::map<std::string, std::deque<int64_t>> restarts_;  // by key: when, CLOCK_MONOTONIC ns
};

/// How a living process was started, from what it holds: its config is read from its fd 3. Without a
/// program where that cannot be had.
v1::StartProcess start_of(const v1::KnownProcess& known);
/// Living processes whose environment carries BP_NODE_WORK_DIR=work_dir.
std::vector<ProcessId> processes_marked(const std::string& work_dir);
/// The last `max_bytes` of a log, from the start of a line on, without bearer tokens.
std::string log_tail(const std::string& path, size_t max_bytes);
/// What is wrong with a request to start something; OK when nothing.
Status check_start(const v1::StartProcess& wanted);

}  // namespace bp::node
