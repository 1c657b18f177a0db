// NodeHarness: a daemon that is none (a ROUTER in this test) and real bp-node processes below a
// folder.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bp/v1/node.pb.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"
#include "tests/support/par_store_process.h"

namespace bp::test {

class NodeHarness {
 public:
  NodeHarness();
  ~NodeHarness();  // ends the agent and every process that carries the folder's mark

  void listen();  // a daemon with a new key and port; rewrites the endpoint file
  void start_agent();
  void kill_agent();                              // SIGKILL, waits
  ProcessId spawn_agent(const std::string& log);  // without waiting for it
  /// Handles what comes in until a greeting arrived.
  v1::NodeHello wait_hello();
  v1::NodeCommandReply call(v1::NodeCommand command, uint64_t epoch, int64_t wait_ms = 15'000);
  v1::NodeCommandReply start(const std::string& key, uint64_t epoch, const std::string& config,
                             const std::vector<v1::Segment>& segments = {}, bool leased = false);
  v1::NodeCommandReply stop(const std::string& key, uint64_t epoch, int64_t grace_ms);
  std::vector<v1::ProcessStatus> processes(uint64_t epoch = 0);
  /// Waits until the end of that process was told.
  v1::ProcessEnded wait_ended(const std::string& key, int64_t wait_ms = 10'000);
  std::string log_of(const std::string& key);
  /// Waits until the log of a process holds the text; the log.
  std::string wait_log(const std::string& key, const std::string& text);
  v1::NodeCommandReply fetch(const v1::FetchObjects& wanted, uint64_t epoch = 1);
  v1::FetchStatus wait_fetch(const std::string& key, int64_t wait_ms = 20'000);
  /// Sends a command without waiting for its reply.
  uint64_t post(v1::NodeCommand command, uint64_t epoch);
  /// Living processes that carry the folder's mark.
  std::vector<ProcessId> marked() const;
  void send_raw(const std::string& payload);
  void pump(int64_t ms);  // only handle what comes in

  TempDir dir;
  std::string address, work_dir, cache_dir, bin_dir;
  bool acknowledge = true;  // the ends of processes
  std::vector<v1::ProcessEnded> ended;
  std::optional<v1::NodeBeat> last_beat;
  ProcessId agent;

 private:
  std::optional<v1::NodeMessage> receive(Deadline deadline);
  bus::KeyPair node_keys_;
  std::unique_ptr<bus::Context> context_;
  std::unique_ptr<bus::Router> router_;
  std::string peer_;
  uint64_t next_call_ = 1;
};

v1::Segment segment(const std::string& name, uint64_t size_bytes, bool drop_with_epoch);

}  // namespace bp::test
