#include "engine/stage_host/plugin_file.h"

#include <dlfcn.h>

namespace bp::stage_host {
namespace {

std::string versions_spoken() {
  return kAbiMin == kAbiMax ? "version " + std::to_string(kAbiMin)
                            : "versions " + std::to_string(kAbiMin) + " to " + std::to_string(kAbiMax);
}

Error refuse(const std::string& file, const std::string& why) {
  return Error{ErrorCode::kPluginLoad, "plugin " + file + " " + why, {}};
}

}  // namespace

Result<const bp_stage_v1*> load_plugin(const std::string& file) {
  if (file.empty() || file[0] != '/') return refuse(file, "is not named by an absolute path");
  // Never closed: threads and statics of the plugin live as long as the process.
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = ::dlerror();
    return refuse(file, std::string("cannot be opened: ") + (why ? why : "unknown reason"));
  }
  auto entry = reinterpret_cast<bp_stage_entry_fn>(::dlsym(library, "bp_stage_entry"));
  if (!entry) return refuse(file, "exports no bp_stage_entry: it is no stage plugin");
  const bp_stage_v1* table = entry(kAbiMin, kAbiMax);
  if (!table) {
    const bp_stage_v1* any = entry(0, UINT32_MAX);  // only to name its version
    std::string theirs = any ? "ABI version " + std::to_string(any->abi_version) : "another ABI version";
    return refuse(file, "was built for stage " + theirs + ", this host speaks " + versions_spoken());
  }
  if (table->abi_version < kAbiMin || table->abi_version > kAbiMax) {
    return refuse(file, "was built for stage ABI version " + std::to_string(table->abi_version) +
                            ", this host speaks " + versions_spoken());
  }
  if (table->size < sizeof(bp_stage_v1) || !table->name || !table->run) {
    return refuse(file, "offers an incomplete table (" + std::to_string(table->size) + " bytes, at least " +
                            std::to_string(sizeof(bp_stage_v1)) + " expected)");
  }
  return table;
}

}  // namespace bp::stage_host
