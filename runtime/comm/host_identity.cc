#include "runtime/comm/host_identity.h"

#include <unistd.h>

#include "engine/base/clock.h"

namespace bp::rt {

std::string host_identity() {
  std::string text = boot_id();
  for (const char* name : {"pid", "net"}) {
    char link[64];
    const ssize_t n = ::readlink((std::string("/proc/self/ns/") + name).c_str(), link, sizeof link);
    text += ":" + std::string(link, n > 0 ? static_cast<size_t>(n) : 0);
  }
  return text;
}

}  // namespace bp::rt
