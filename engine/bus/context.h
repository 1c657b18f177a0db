// Inner parts of the bus room: the ZeroMQ context with its ZAP handler, and an owned socket.
// Not for other rooms.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "engine/base/fd.h"
#include "engine/bus/bus.h"

namespace bp::bus {

/// What ZAP checks for one listener.
struct Domain {
  bool ipc = false;      // NULL mechanism, peer uid must be ours
  Authorizer authorize;  // CURVE
};

struct Context::Impl {
  ~Impl();
  Status start();
  /// Registers a listener; the returned name is its ZAP domain.
  std::string add_domain(Domain domain);
  void remove_domain(const std::string& name);

  void* zmq = nullptr;
  std::atomic<int> open_sockets{0};

 private:
  void serve_zap();
  void answer_zap();
  std::string user_of(const std::string& domain, const std::string& address,
                      const std::string& mechanism, const std::string& credentials);

  void* zap_socket_ = nullptr;
  Fd stop_;
  std::thread zap_thread_;
  std::mutex mutex_;
  std::map<std::string, Domain> domains_;
  uint64_t next_domain_ = 0;
};

/// An owned ZeroMQ socket; on close it gives what is queued kCloseLingerMs to leave.
class Socket {
 public:
  static constexpr int kCloseLingerMs = 200;
  Socket(Context::Impl& context, int type);
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  void* get() const { return socket_; }
  Status set_int(int option, int value);
  Status set_text(int option, std::string_view value);
  /// Limits, heartbeats and reconnection common to all sockets.
  Status set_common(size_t max_message_bytes);

 private:
  Context::Impl& context_;
  void* socket_ = nullptr;
};

/// The last libzmq error as an Error.
Error zmq_error(std::string_view what);

/// One whole message. kUnavailable with an empty text: nothing there.
struct Parts {
  std::string first, second;
  size_t count = 0;
  std::string user;
};
Result<Parts> receive_parts(void* socket);

/// Waits until `socket` can be read; kDeadlineExceeded names `who`.
Status wait_readable(void* socket, Deadline deadline, std::string_view who);

void* raw_socket(Router& router);
void* raw_socket(Dealer& dealer);

}  // namespace bp::bus
