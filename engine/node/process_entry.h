// One process in the table. Private to process_table*.cc.
#pragma once
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "engine/node/convert.h"
#include "engine/node/process_table.h"

namespace bp::node {

struct ProcessTable::Entry {
  Entry(boost::asio::io_context& io, const v1::KnownProcess& k, bool is_child)
      : known(k), child(is_child), pidfd(io), timer(io) {}
  const std::string& key() const { return known.status().process_key(); }
  ProcessId id() const { return from_proto(known.status().identity()); }

  v1::KnownProcess known;
  v1::StartProcess wanted;  // how it was started; without a program: it cannot be started again
  const bool child;  // of this very agent: its exit status can be read
  boost::asio::posix::stream_descriptor pidfd;
  boost::asio::steady_timer timer;  // grace, then proof
  Lease lease;
  std::string reason;   // why it ends, when this agent ends it
  bool asked = false;   // SIGTERM was sent
  bool killed = false;  // SIGKILL was sent
  bool gone = false;
  std::vector<StopDone> waiters;
};

}  // namespace bp::node
