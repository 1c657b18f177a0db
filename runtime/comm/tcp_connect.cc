#include "runtime/comm/tcp_connect.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <list>

#include "runtime/comm/tcp_link.h"

namespace bp::rt {
namespace {

constexpr size_t kHalfOpenMax = 64;
constexpr int64_t kHandshakeMs = 2'000;   // for one connection
constexpr int64_t kRetryMs = 20;
constexpr int64_t kCancelLookMs = 10;

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

Result<Address> resolve(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (int rc = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); rc != 0 || !found) {
    return Error{ErrorCode::kInvalidArgument, "\"" + host + "\" port \"" + port + "\" is not a numeric address", {}};
  }
  Address a;
  a.size = found->ai_addrlen;
  std::copy_n(reinterpret_cast<const char*>(found->ai_addr), a.size, reinterpret_cast<char*>(&a.storage));
  ::freeaddrinfo(found);
  return a;
}

Result<Address> parse_endpoint(const std::string& endpoint) {
  size_t colon = endpoint.rfind(':');
  if (colon == std::string::npos || endpoint.size() > 128) {
    return Error{ErrorCode::kInvalidArgument, "data endpoint is not ADDRESS:PORT", {}};
  }
  std::string host = endpoint.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return resolve(host, endpoint.substr(colon + 1));
}

/// One connection on its way to a link. Every read asks for exactly what the next message has, so that
/// nothing of the link's own stream is swallowed.
struct HalfOpen {
  HalfOpen(Fd s, Handshake h) : socket(std::move(s)), handshake(std::move(h)) {}
  Fd socket;
  Handshake handshake;
  Deadline deadline = Deadline::in_ms(kHandshakeMs);
  bool dialler = false;
  bool connecting = false;     // dialler: connect() under way
  bool closing = false;        // dialler: only the proof is left to send
  int wanted = -1;             // index of the peer; -1 while unknown
  std::string in, out;
  size_t expect = 0;           // bytes of the next message
};

class Connector {
 public:
  Connector(const DataListener& listener, const ConnectOptions& o)
      : listener_(listener), o_(o), links_(o.peers.size()), retry_at_(o.peers.size(), Deadline::in_ms(0)) {}
  Result<std::vector<std::unique_ptr<Link>>> run();

 private:
  bool ours_to_dial(size_t i) const { return o_.rank > o_.peers[i].rank; }
  bool complete() const {
    return std::all_of(links_.begin(), links_.end(), [](auto& l) { return l != nullptr; });
  }
  Status dial_missing();
  void wait();
  void accept_all();
  Status step(HalfOpen& c, short events);   // an error drops the connection
  Status got(HalfOpen& c);
  Status got_hello(HalfOpen& c);
  Status flush(HalfOpen& c);
  void finish(HalfOpen& c);
  std::string missing() const;

  const DataListener& listener_;
  const ConnectOptions& o_;
  std::optional<Handshake> fresh_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<Deadline> retry_at_;
  std::list<HalfOpen> half_open_;
  std::string last_refusal_;
  uint64_t refused_ = 0;
};

Result<std::vector<std::unique_ptr<Link>>> Connector::run() {
  if (o_.peers.empty()) return std::move(links_);
  BP_ASSIGN(fresh_, Handshake::make(o_.data_key));
  while (!complete()) {
    if (o_.deadline.passed()) return Error{ErrorCode::kDeadlineExceeded, missing(), {}};
    if (o_.cancelled && o_.cancelled()) return Error{ErrorCode::kCancelled, "told to leave the group", {}};
    BP_TRY(dial_missing());
    wait();
  }
  // A proof that is still on its way out must not be cut off.
  while (std::any_of(half_open_.begin(), half_open_.end(), [](auto& c) { return c.closing; })) {
    if (o_.deadline.passed()) return Error{ErrorCode::kDeadlineExceeded, missing(), {}};
    wait();
  }
  return std::move(links_);
}

std::string Connector::missing() const {
  std::string text = "waited for";
  for (size_t i = 0; i < links_.size(); ++i) {
    if (links_[i]) continue;
    text += " " + o_.peers[i].label + (ours_to_dial(i) ? " to answer at " + o_.peers[i].endpoint : " to connect") + ";";
  }
  text += " " + std::to_string(refused_) + " connections refused or failed";
  if (!last_refusal_.empty()) text += ", the last because " + last_refusal_;
  return text;
}

Status Connector::dial_missing() {
  for (size_t i = 0; i < links_.size(); ++i) {
    if (links_[i] || !ours_to_dial(i) || !retry_at_[i].passed()) continue;
    if (std::any_of(half_open_.begin(), half_open_.end(),
                    [&](auto& c) { return c.dialler && c.wanted == static_cast<int>(i); })) continue;
    BP_ASSIGN(Address to, parse_endpoint(o_.peers[i].endpoint));
    Fd s(::socket(to.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!s) return errno_error("data socket", errno);
    retry_at_[i] = Deadline::in_ms(kRetryMs);
    if (::connect(s.get(), reinterpret_cast<sockaddr*>(&to.storage), to.size) != 0 && errno != EINPROGRESS) {
      last_refusal_ = o_.peers[i].label + ": " + errno_error("connect", errno).message;
      ++refused_;
      continue;
    }
    HalfOpen& c = half_open_.emplace_back(std::move(s), *fresh_);
    c.dialler = c.connecting = true;
    c.wanted = static_cast<int>(i);
    c.out = c.handshake.make_hello({o_.rank, o_.peers[i].rank, o_.peers[i].purpose, o_.epoch});
    c.expect = kAnswerBytes;
  }
  return {};
}

void Connector::wait() {
  std::vector<pollfd> fds{{listener_.fd(), POLLIN, 0}};
  for (auto& c : half_open_) {
    fds.push_back({c.socket.get(), static_cast<short>(c.connecting || !c.out.empty() ? POLLOUT | POLLIN : POLLIN), 0});
    if (c.connecting) fds.back().events = POLLOUT;
  }
  const int64_t look_ms = o_.cancelled ? kCancelLookMs : kRetryMs;
  ::poll(fds.data(), fds.size(), static_cast<int>(std::min<int64_t>(o_.deadline.left_ms() + 1, look_ms)));
  size_t at = 1;
  for (auto it = half_open_.begin(); it != half_open_.end(); ++at) {
    Status status = fds[at].revents ? step(*it, fds[at].revents) : Status{};
    if (status.ok() && it->deadline.passed()) {
      status = Error{ErrorCode::kDeadlineExceeded, "a connection did not finish its greeting in time", {}};
    }
    if (!status.ok()) {
      if (!it->closing) { ++refused_; last_refusal_ = status.error().message; }
      it = half_open_.erase(it);
    } else if (!it->socket) {
      it = half_open_.erase(it);  // it became a link
    } else {
      ++it;
    }
  }
  if (fds[0].revents) accept_all();
}

void Connector::accept_all() {
  for (size_t i = 0; i < kHalfOpenMax; ++i) {
    Fd s(::accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!s) return;
    if (half_open_.size() >= kHalfOpenMax + o_.peers.size()) {
      auto oldest = std::find_if(half_open_.begin(), half_open_.end(), [](auto& c) { return !c.dialler; });
      if (oldest != half_open_.end()) half_open_.erase(oldest);
      ++refused_;
      last_refusal_ = "too many connections were half open";
    }
    HalfOpen& c = half_open_.emplace_back(std::move(s), *fresh_);
    c.expect = kHelloBytes;
  }
}

Status Connector::step(HalfOpen& c, short events) {
  if (c.connecting) {
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(c.socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return errno_error("connect to " + o_.peers[static_cast<size_t>(c.wanted)].label, error);
    c.connecting = false;
  }
  BP_TRY(flush(c));
  if (!c.socket || c.closing || !(events & (POLLIN | POLLHUP | POLLERR))) return {};
  while (c.in.size() < c.expect) {
    char buffer[kHelloBytes];
    ssize_t n = ::recv(c.socket.get(), buffer, c.expect - c.in.size(), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
    if (n <= 0) {
      return Error{ErrorCode::kPeerLost,
                   (c.dialler ? o_.peers[static_cast<size_t>(c.wanted)].label : std::string("a stranger")) +
                       " closed the connection during the greeting (its key or epoch may differ)",
                   {}};
    }
    c.in.append(buffer, static_cast<size_t>(n));
    // Garbage is seen at its first bytes.
    if (!c.dialler && c.wanted < 0 && c.in.compare(0, 8, "BPDATA01", std::min<size_t>(8, c.in.size())) != 0) {
      return Error{ErrorCode::kProtocol, "what came is not a greeting of a rank", {}};
    }
  }
  return got(c);
}

// A whole message of the handshake is there.
Status Connector::got(HalfOpen& c) {
  if (!c.dialler && c.wanted < 0) {
    BP_TRY(got_hello(c));
  } else if (c.dialler) {
    BP_ASSIGN(std::string proof, c.handshake.make_proof(c.in));
    c.out += proof;
    c.closing = true;
  } else {
    BP_TRY(c.handshake.read_proof(c.in));
    finish(c);
    return {};
  }
  c.in.clear();
  return flush(c);
}

Status Connector::got_hello(HalfOpen& c) {
  BP_ASSIGN(HelloFields f, c.handshake.read_hello(c.in));
  if (f.epoch != o_.epoch) {
    return Error{ErrorCode::kStaleEpoch,
                 "rank " + std::to_string(f.from) + " is of epoch " + f.epoch.to_string() + ", we are of " +
                     o_.epoch.to_string(),
                 {}};
  }
  for (size_t i = 0; i < links_.size(); ++i) {
    if (f.to != o_.rank || o_.peers[i].rank != f.from || o_.peers[i].purpose != f.purpose) continue;
    if (links_[i] || ours_to_dial(i)) break;
    c.wanted = static_cast<int>(i);
    c.out = c.handshake.make_answer();
    c.expect = kProofBytes;
    return {};
  }
  return Error{ErrorCode::kConflict, "rank " + std::to_string(f.from) + " is not expected here", {}};
}

Status Connector::flush(HalfOpen& c) {
  while (!c.out.empty()) {
    ssize_t n = ::send(c.socket.get(), c.out.data(), c.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
    if (n < 0) return errno_error("greeting", errno);
    c.out.erase(0, static_cast<size_t>(n));
  }
  if (c.closing) finish(c);
  return {};
}

void Connector::finish(HalfOpen& c) {
  auto i = static_cast<size_t>(c.wanted);
  if (links_[i]) { c.socket.reset(); return; }
  int on = 1;
  ::setsockopt(c.socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  links_[i] = make_tcp_link(std::move(c.socket), c.handshake.keys(c.dialler), o_.peers[i].label);
}

}  // namespace

Result<DataListener> DataListener::open(const std::string& address) {
  BP_ASSIGN(Address at, resolve(address, "0"));
  DataListener l;
  l.fd_ = Fd(::socket(at.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!l.fd_) return errno_error("data socket", errno);
  if (::bind(l.fd_.get(), reinterpret_cast<sockaddr*>(&at.storage), at.size) != 0 ||
      ::listen(l.fd_.get(), 128) != 0) {
    return errno_error("listen on " + address, errno);
  }
  socklen_t size = sizeof at.storage;
  if (::getsockname(l.fd_.get(), reinterpret_cast<sockaddr*>(&at.storage), &size) != 0) {
    return errno_error("port of the data socket", errno);
  }
  char port[16];
  if (::getnameinfo(reinterpret_cast<sockaddr*>(&at.storage), size, nullptr, 0, port, sizeof port,
                    NI_NUMERICSERV) != 0) {
    return Error{ErrorCode::kInternal, "port of the data socket", {}};
  }
  l.endpoint_ = (address.find(':') == std::string::npos ? address : "[" + address + "]") + ":" + port;
  return l;
}

Result<std::vector<std::unique_ptr<Link>>> connect_peers(const DataListener& listener,
                                                         const ConnectOptions& options) {
  return Connector(listener, options).run();
}

}  // namespace bp::rt
