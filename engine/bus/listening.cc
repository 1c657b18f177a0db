#include "engine/bus/listening.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>

namespace bp::bus {
namespace {

constexpr int kFirst = 3;      // sd_listen_fds
constexpr int kInheritMax = 16;

std::mutex mutex;
std::map<std::string, Fd>& given() {
  static std::map<std::string, Fd> map;
  return map;
}

}  // namespace

void use_descriptor(const std::string& endpoint, Fd descriptor) {
  std::lock_guard lock(mutex);
  given()[endpoint] = std::move(descriptor);
}

Fd take_descriptor(const std::string& endpoint) {
  std::lock_guard lock(mutex);
  auto it = given().find(endpoint);
  if (it == given().end()) return Fd();
  Fd fd = std::move(it->second);
  given().erase(it);
  return fd;
}

Result<std::string> listens_on(int descriptor) {
  int listening = 0;
  socklen_t size = sizeof listening;
  if (::getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || listening == 0) {
    return Error{ErrorCode::kInvalidArgument, "descriptor " + std::to_string(descriptor) + " does not listen", {}};
  }
  sockaddr_storage address{};
  size = sizeof address;
  if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return errno_error("getsockname", errno);
  }
  if (address.ss_family == AF_UNIX) {
    return std::string("ipc://") + reinterpret_cast<const sockaddr_un*>(&address)->sun_path;
  }
  if (address.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&address);
    char text[INET_ADDRSTRLEN] = {};
    ::inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
    return std::string("tcp://") + text + ":" + std::to_string(ntohs(in->sin_port));
  }
  return Error{ErrorCode::kInvalidArgument, "descriptor " + std::to_string(descriptor) + " is of another family", {}};
}

Result<Fd> find_listening(const std::string& endpoint) {
  std::error_code ec;
  for (const auto& e : std::filesystem::directory_iterator("/proc/self/fd", ec)) {
    const int descriptor = std::atoi(e.path().filename().c_str());
    auto found = listens_on(descriptor);
    if (!found.ok() || *found != endpoint) continue;
    Fd copy(::fcntl(descriptor, F_DUPFD_CLOEXEC, kFirst + kInheritMax));
    if (!copy) return errno_error("dup", errno);
    return copy;
  }
  return Error{ErrorCode::kNotFound, "nothing here listens on " + endpoint, {}};
}

std::vector<std::string> inherit_listening() {
  std::vector<std::string> endpoints;
  const char* pid = std::getenv("LISTEN_PID");
  const char* count = std::getenv("LISTEN_FDS");
  if (pid && count && std::atoi(pid) == ::getpid()) {
    const int end = kFirst + std::min(std::atoi(count), kInheritMax);
    for (int fd = kFirst; fd < end; ++fd) {
      auto endpoint = listens_on(fd);
      if (!endpoint.ok()) continue;
      ::fcntl(fd, F_SETFD, FD_CLOEXEC);
      use_descriptor(*endpoint, Fd(fd));
      endpoints.push_back(*endpoint);
    }
  }
  ::unsetenv("LISTEN_PID");
  ::unsetenv("LISTEN_FDS");
  return endpoints;
}

void bequeath_listening(std::vector<Fd> descriptors) {
  if (descriptors.size() > kInheritMax) descriptors.resize(kInheritMax);
  // All of them lie above the targets, so that none is overwritten before it is copied.
  for (auto& fd : descriptors) {
    if (fd.get() < kFirst + kInheritMax) fd = Fd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, kFirst + kInheritMax));
  }
  for (size_t i = 0; i < descriptors.size(); ++i) ::dup2(descriptors[i].get(), kFirst + static_cast<int>(i));
  ::setenv("LISTEN_FDS", std::to_string(descriptors.size()).c_str(), 1);
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
}

}  // namespace bp::bus
