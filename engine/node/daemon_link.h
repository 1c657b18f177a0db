// DaemonLink: this node's connection to the daemon. Dials what the endpoint file names, and dials
// anew when the daemon is silent: at once when the file changed, else every kRedialMs. Agent's
// thread only.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "bp/v1/node.pb.h"
#include "engine/base/result.h"
#include "engine/bus/bus.h"

namespace bp::node {

struct DaemonAddress {
  std::string endpoint;
  std::string public_key;
  bool operator==(const DaemonAddress&) const = default;
};
/// Two lines: endpoint, public key (Z85, 40 characters; may be absent for ipc). kCorruptData
/// otherwise.
Result<DaemonAddress> read_daemon_file(const std::string& path);

class DaemonLink {
 public:
  static constexpr int64_t kSilentMs = 1'000;
  static constexpr int64_t kRedialMs = 3'000;
  static constexpr int kGreetEveryTicks = 10;
  DaemonLink(std::string daemon_file, bus::KeyPair keys, bus::SocketThread& sockets,
             std::function<void(std::string)> on_message);
  ~DaemonLink();
  /// With every beat: looks after the connection. True when the daemon must be greeted (again): it
  /// never answered, left the last beat unanswered, or may have been restarted unnoticed since the
  /// last greeting.
  bool tick();
  /// A message of the daemon came in.
  void heard();
  /// The daemon knows this node; `false`: it asked to be greeted again.
  void greeted(bool yes) { greeted_ = yes; }
  void send(v1::NodeMessage message);

 private:
  void redial(const DaemonAddress& to);
  const std::string daemon_file_;
  const bus::KeyPair keys_;
  bus::SocketThread& sockets_;
  const std::function<void(std::string)> on_message_;
  DaemonAddress address_;
  int socket_ = -1;
  bool greeted_ = false, file_error_logged_ = false;
  int64_t heard_ns_ = 0, dialled_ns_ = 0, ticked_ns_ = 0;
  int ticks_ = 0;
  uint64_t sequence_ = 0;
};

}  // namespace bp::node
