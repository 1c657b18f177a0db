// Parts of the agent. Private to agent*.cc.
#pragma once
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <set>

#include "engine/base/fd.h"
#include "engine/bus/bus.h"
#include "engine/node/agent.h"
#include "engine/node/daemon_link.h"
#include "engine/node/fetch_manager.h"
#include "engine/node/process_table.h"
#include "engine/node/state_store.h"

namespace bp::node {

struct Agent::Impl {
  Impl(AgentOptions o, Fd lock_fd, Fd claim_fd, StateStore s);
  Status start_link();
  void on_message(const std::string& payload);
  void on_command(const v1::NodeCommand& command);
  void dispatch(const v1::NodeCommand& command, Epoch epoch);
  void release(const std::string& bytes, uint64_t call_id, int64_t grace_ms);
  Status released(std::vector<std::string> survivors);
  /// kConflict for another run, kStaleEpoch for an older epoch; remembers a newer one durably
  /// first.
  Status fence(const v1::NodeCommand& command);
  void acknowledge(const v1::NodeBeatAck& ack);
  /// Once per command: also takes it off in_flight.
  void finish(const std::string& bytes, uint64_t call_id, const Status& status,
              v1::NodeCommandReply reply = {});
  void reply(uint64_t call_id, const Status& status, v1::NodeCommandReply reply = {});
  void send_hello();
  void send_beat();
  void send_ended();
  void beat_tick();
  void lease_tick();
  Result<v1::LogChunk> read_log(const v1::ReadLog& wanted) const;

  const AgentOptions options;
  Fd lock;
  Fd claim;  // of the address
  StateStore store;
  boost::asio::io_context io{1};
  boost::asio::signal_set signals{io};
  boost::asio::steady_timer beat_timer{io}, lease_timer{io}, exit_timer{io};
  ProcessTable table;
  FetchManager fetches;
  std::unique_ptr<bus::Context> context;
  std::unique_ptr<bus::SocketThread> sockets;
  std::unique_ptr<DaemonLink> link;
  v1::NodeInventory inventory;
  std::set<int>
      ended_sent;  // pids whose end was told at least once: only those can be acknowledged
  std::set<std::string> in_flight;  // commands that take time, as bytes: the daemon may repeat them
  bool releasing = false;
};

}  // namespace bp::node
