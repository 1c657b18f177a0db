#include "engine/node/inventory.h"

#include <dlfcn.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <set>
#include <sstream>

#include "engine/base/clock.h"
#include "engine/base/files.h"

namespace bp::node {
namespace {

void add_cpu(v1::NodeInventory* out) {
  auto text = read_file("/proc/cpuinfo", 16 << 20);
  if (!text.ok()) return;
  std::istringstream in(*text);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string value = colon + 2 <= line.size() ? line.substr(colon + 2) : "";
    if (line.rfind("model name", 0) == 0 && out->cpu_model().empty()) out->set_cpu_model(value);
    if ((line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0) &&
        out->cpu_features().empty()) {
      std::istringstream flags(value);
      for (std::string f; flags >> f;) out->add_cpu_features(f);
    }
  }
}

void add_addresses(v1::NodeInventory* out, const std::string& own) {
  std::set<std::string> seen;
  if (!own.empty()) {
    out->add_addresses(own);
    seen.insert(own);
  }
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return;
  for (ifaddrs* a = all; a; a = a->ifa_next) {
    if (!a->ifa_addr || (a->ifa_addr->sa_family != AF_INET && a->ifa_addr->sa_family != AF_INET6))
      continue;
    char host[NI_MAXHOST];
    const socklen_t size =
        a->ifa_addr->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (::getnameinfo(a->ifa_addr, size, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0)
      continue;
    if (seen.insert(host).second) out->add_addresses(host);
  }
  ::freeifaddrs(all);
}

// NVIDIA's management library, when the driver is installed (nvml.h: the functions used have had
// these signatures since version 2 of its interface). It is opened at run time, so nothing depends
// on it.
class Nvml {
 public:
  struct Memory {
    unsigned long long total, free, used;
  };
  Nvml() : lib_(::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (!lib_) return;
    auto init = function<int()>("nvmlInit_v2");
    ready_ = init && init() == 0;
  }
  ~Nvml() {
    if (auto shutdown = function<int()>("nvmlShutdown"); ready_ && shutdown) shutdown();
    if (lib_) ::dlclose(lib_);
  }
  void add_gpus(v1::NodeInventory* out) {
    auto count = function<int(unsigned*)>("nvmlDeviceGetCount_v2");
    auto handle = function<int(unsigned, void**)>("nvmlDeviceGetHandleByIndex_v2");
    auto name = function<int(void*, char*, unsigned)>("nvmlDeviceGetName");
    auto uuid = function<int(void*, char*, unsigned)>("nvmlDeviceGetUUID");
    auto memory = function<int(void*, Memory*)>("nvmlDeviceGetMemoryInfo");
    unsigned n = 0;
    if (!ready_ || !count || !handle || !name || !uuid || !memory || count(&n) != 0) return;
    for (unsigned i = 0; i < n; ++i) {
      void* device = nullptr;
      char text[96] = {};
      Memory m{};
      if (handle(i, &device) != 0) continue;
      auto* gpu = out->add_gpus();
      if (name(device, text, sizeof text) == 0) gpu->set_name(text);
      if (uuid(device, text, sizeof text) == 0) gpu->set_uuid(text);
      if (memory(device, &m) == 0) gpu->set_memory_bytes(m.total);
    }
  }

 private:
  template <class F>
  F* function(const char* symbol) {
    return lib_ ? reinterpret_cast<F*>(::dlsym(lib_, symbol)) : nullptr;
  }
  void* lib_;
  bool ready_ = false;
};

}  // namespace

v1::NodeInventory take_inventory(uint32_t cores, uint64_t memory_bytes, const std::string& work_dir,
                                 const std::string& address) {
  v1::NodeInventory out;
  cpu_set_t set;
  if (cores == 0 && ::sched_getaffinity(0, sizeof set, &set) == 0)
    cores = static_cast<uint32_t>(CPU_COUNT(&set));
  out.set_cores(cores);
  if (memory_bytes == 0) {
    memory_bytes = static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                   static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  out.set_memory_bytes(memory_bytes);
  struct statvfs fs {};
  if (::statvfs(work_dir.c_str(), &fs) == 0)
    out.set_disk_free_bytes(static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize);
  Nvml().add_gpus(&out);
  add_addresses(&out, address);
  add_cpu(&out);
  out.set_host_identity(boot_id());
  return out;
}

}  // namespace bp::node
