#include "engine/daemon/config.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>

#include "engine/base/files.h"
#include "engine/base/process.h"

namespace bp::daemon {
namespace {

std::string env(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}

struct Member {
  const char* name;
  std::string Config::*text;
  bool Config::*flag;
};
constexpr Member kMembers[] = {
    {"state-dir", &Config::state_dir, nullptr},
    {"run-dir", &Config::run_dir, nullptr},
    {"plugin-dir", &Config::plugin_dir, nullptr},
    {"workflow-dir", &Config::workflow_dir, nullptr},
    {"provider", &Config::provider, nullptr},
    {"device", &Config::device, nullptr},
    {"log-level", &Config::log_level, nullptr},
    {"log-file", &Config::log_file, nullptr},
    {"trace-mib", &Config::trace_mib, nullptr},
    {"allow-private-stores", nullptr, &Config::allow_private_stores},
    {"exact", nullptr, &Config::exact},
    {"embedded", nullptr, &Config::embedded},
    {"start-paused", nullptr, &Config::start_paused},
};

Error wrong(const std::string& path, const std::string& what) {
  return Error{ErrorCode::kInvalidArgument, path + ": " + what, {}};
}

std::string default_plugin_dir(const std::string& bin) {
  namespace fs = std::filesystem;
  std::error_code ec;
  const fs::path up = fs::path(bin).parent_path();
  if (fs::is_directory(up / "plugins", ec)) return (up / "plugins").string();
  if (fs::is_directory(up / "lib" / "bp-daemon" / "plugins", ec)) {
    return (up / "lib" / "bp-daemon" / "plugins").string();
  }
  for (const auto& e : fs::directory_iterator(up / "lib", ec)) {
    if (fs::is_directory(e.path() / "bp-daemon" / "plugins", ec)) {
      return (e.path() / "bp-daemon" / "plugins").string();
    }
  }
  return (up / "plugins").string();
}

}  // namespace

Status read_config(const std::string& path, const std::vector<std::string>& given, Config* config) {
  BP_ASSIGN(auto text, read_file(path, 64 << 10));
  boost::system::error_code ec;
  boost::json::value root = boost::json::parse(text, ec);
  if (ec || !root.is_object())
    return wrong(path, "found no JSON object; expected {\"state-dir\": \"...\"}");
  for (const auto& item : root.as_object()) {
    const std::string name(item.key());
    const Member* member = std::find_if(std::begin(kMembers), std::end(kMembers),
                                        [&](const Member& m) { return name == m.name; });
    if (member == std::end(kMembers)) return wrong(path, "unknown member \"" + name + "\"");
    if (std::find(given.begin(), given.end(), name) != given.end()) continue;
    if (member->text && item.value().is_string()) {
      config->*(member->text) = std::string(item.value().as_string());
    } else if (member->flag && item.value().is_bool()) {
      config->*(member->flag) = item.value().as_bool();
    } else {
      return wrong(path,
                   "\"" + name + "\" must be " + (member->text ? "a string" : "true or false"));
    }
  }
  return {};
}

Status fill_defaults(Config* c) {
  if (c->state_dir.empty()) c->state_dir = env("BP_STATE_DIR");
  if (c->state_dir.empty() && !env("XDG_STATE_HOME").empty())
    c->state_dir = env("XDG_STATE_HOME") + "/bp-daemon";
  if (c->state_dir.empty() && !env("HOME").empty())
    c->state_dir = env("HOME") + "/.local/state/bp-daemon";
  if (c->state_dir.empty()) {
    return Error{
        ErrorCode::kInvalidArgument, "no state folder: neither --state-dir nor HOME is set", {}};
  }
  if (c->run_dir.empty()) c->run_dir = env("BP_RUN_DIR");
  if (c->run_dir.empty() && !env("XDG_RUNTIME_DIR").empty())
    c->run_dir = env("XDG_RUNTIME_DIR") + "/bp-daemon";
  if (c->run_dir.empty()) c->run_dir = c->state_dir + "/run";
  if (c->plugin_dir.empty()) c->plugin_dir = default_plugin_dir(program_dir());
  if (c->workflow_dir.empty()) c->workflow_dir = c->plugin_dir;
  for (std::string* path : {&c->state_dir, &c->run_dir, &c->plugin_dir, &c->workflow_dir}) {
    *path = std::filesystem::absolute(*path).lexically_normal().string();
    while (path->size() > 1 && path->back() == '/') path->pop_back();
  }
  return {};
}

}  // namespace bp::daemon
