#include "engine/cli/paths.h"

#include <cstdlib>
#include <filesystem>

namespace bp::cli {
namespace {

std::string env(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}

std::string absolute(const std::string& path) {
  std::error_code ec;
  const auto p = std::filesystem::absolute(path, ec);
  return ec ? path : p.lexically_normal().string();
}

}  // namespace

std::string Paths::socket_path() const {
  return endpoint.rfind("ipc://", 0) == 0 ? endpoint.substr(6) : std::string();
}

Result<Paths> resolve_paths(Paths p) {
  if (p.state_dir.empty()) p.state_dir = env("BP_STATE_DIR");
  if (p.state_dir.empty() && !env("XDG_STATE_HOME").empty()) {
    p.state_dir = env("XDG_STATE_HOME") + "/bp-daemon";
  }
  if (p.state_dir.empty() && !env("HOME").empty())
    p.state_dir = env("HOME") + "/.local/state/bp-daemon";
  if (p.state_dir.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "state folder: found neither BP_STATE_DIR, XDG_STATE_HOME nor HOME",
                 "Give --state-dir"};
  }
  p.state_dir = absolute(p.state_dir);
  if (p.run_dir.empty()) p.run_dir = env("BP_RUN_DIR");
  if (p.run_dir.empty() && !env("XDG_RUNTIME_DIR").empty())
    p.run_dir = env("XDG_RUNTIME_DIR") + "/bp-daemon";
  if (p.run_dir.empty()) p.run_dir = p.state_dir + "/run";
  p.run_dir = absolute(p.run_dir);
  if (p.endpoint.empty()) p.endpoint = "ipc://" + p.run_dir + "/client.sock";
  if (p.socket_path().empty()) {
    return Error{ErrorCode::kInvalidArgument, "endpoint " + p.endpoint + ": expected ipc://PATH",
                 "Give the path of the daemon's client.sock"};
  }
  return p;
}

}  // namespace bp::cli
