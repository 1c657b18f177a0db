#include "engine/cli/embedded.h"

#include <fmt/format.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <thread>

#include "engine/base/files.h"
#include "engine/base/limits.h"
#include "engine/base/process.h"

namespace bp::cli {
namespace {

namespace json = boost::json;

constexpr int64_t kStartMs = 15'000;
constexpr int64_t kPollMs = 10;
constexpr int64_t kRivalMs = 1'000;  // from the lock's taking to its taker's name in daemon.pid
constexpr size_t kLogTailBytes = 2'000;

/// The process that daemon.pid names ("PID START_TICKS BOOT_ID"), while it lives.
Result<ProcessId> daemon_process(const Paths& paths) {
  BP_ASSIGN(const std::string text, read_file(paths.pid_file(), 4096));
  std::istringstream in(text);
  ProcessId id;
  in >> id.pid >> id.start_ticks >> id.boot_id;
  if (id.pid <= 0) return Error{ErrorCode::kNotFound, paths.pid_file() + " names no process", {}};
  if (id.boot_id.empty()) {
    BP_ASSIGN(id, process_identity(id.pid));
  }
  if (!process_alive(id)) return Error{ErrorCode::kNotFound, "the daemon is gone", {}};
  return id;
}

std::string log_tail(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "(no log)";
  const auto size = static_cast<size_t>(in.tellg());
  const size_t from = size > kLogTailBytes ? size - kLogTailBytes : 0;
  in.seekg(static_cast<std::streamoff>(from));
  std::string tail(size - from, '\0');
  in.read(tail.data(), static_cast<std::streamsize>(tail.size()));
  return tail;
}

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs)); }

Status write_embedded(const Paths& paths, const EmbeddedOptions& o) {
  const json::object file{{"provider", o.provider},
                          {"device", o.device},
                          {"allow_private_stores", o.allow_private_stores},
                          {"exact", o.exact}};
  return write_file_atomic(paths.embedded_file(), json::serialize(file));
}

SpawnOptions daemon_command(const Paths& paths, const EmbeddedOptions& o) {
  SpawnOptions s;
  s.program = program_dir() + "/bp-daemon";
  s.args = {"--embedded", "--state-dir", paths.state_dir, "--run-dir", paths.run_dir};
  if (!o.provider.empty()) s.args.insert(s.args.end(), {"--provider", o.provider});
  if (!o.device.empty()) s.args.insert(s.args.end(), {"--device", o.device});
  if (o.allow_private_stores) s.args.push_back("--allow-private-stores");
  if (o.exact) s.args.push_back("--exact");
  s.inherit_env = true;
  s.work_dir = "/";
  s.log_file = paths.daemon_log();
  return s;
}

/// Waits until a daemon answers. `started`, when not null, is the one to watch: when it ends first,
/// somebody else's daemon may have won the lock and still answer.
Result<std::unique_ptr<Client>> await_daemon(const Paths& paths, const ProcessId* started) {
  const Deadline deadline = Deadline::in_ms(kStartMs);
  std::optional<Deadline> rival;  // set once `started` has ended
  for (;;) {
    auto client = Client::connect(paths.endpoint, Deadline::in_ms(limits::kConnectMs));
    if (client.ok() || client.error().code != ErrorCode::kNoDaemon) return client;
    if (rival && rival->passed() && !daemon_process(paths).ok()) {
      return Error{ErrorCode::kNoDaemon,
                   fmt::format("bp-daemon ended while it started; {} ends with:\n{}",
                               paths.daemon_log(), log_tail(paths.daemon_log())),
                   {}};
    }
    if (deadline.passed()) {
      return Error{ErrorCode::kNoDaemon,
                   fmt::format("waited {} s for bp-daemon on {}; see {}", kStartMs / 1000,
                               paths.endpoint, paths.daemon_log()),
                   {}};
    }
    if (!rival && started && !process_alive(*started)) rival = Deadline::in_ms(kRivalMs);
    pause();
  }
}

}  // namespace

Result<EmbeddedOptions> read_embedded(const Paths& paths) {
  BP_ASSIGN(const std::string text, read_file(paths.embedded_file(), 64 << 10));
  boost::system::error_code ec;
  const json::value v = json::parse(text, ec);
  if (ec || !v.is_object()) {
    return Error{ErrorCode::kCorruptData,
                 paths.embedded_file() + ": found no JSON object, expected one",
                 "Remove the file, then use bp up"};
  }
  auto text_of = [&v](const char* key) {
    const json::value* f = v.get_object().if_contains(key);
    return f && f->is_string() ? std::string(f->get_string()) : std::string();
  };
  auto flag_of = [&v](const char* key) {
    const json::value* f = v.get_object().if_contains(key);
    return f && f->is_bool() && f->get_bool();
  };
  return EmbeddedOptions{text_of("provider"), text_of("device"), flag_of("allow_private_stores"),
                         flag_of("exact")};
}

Result<std::unique_ptr<Client>> start_embedded(const Paths& paths, const EmbeddedOptions& options) {
  BP_TRY(make_dirs(paths.state_dir));
  BP_TRY(make_dirs(paths.run_dir));
  BP_TRY(make_dirs(std::filesystem::path(paths.daemon_log()).parent_path().string()));
  const SpawnOptions command = daemon_command(paths, options);
  if (::access(command.program.c_str(), X_OK) != 0) {
    return Error{ErrorCode::kNotFound, command.program + " is missing beside this program",
                 "Install bp and bp-daemon into the same folder"};
  }
  BP_TRY(write_embedded(paths, options));
  BP_ASSIGN(const ProcessId started, process_spawn(command));
  return await_daemon(paths, &started);
}

Result<std::unique_ptr<Client>> connect_or_revive(const Paths& paths) {
  auto client = Client::connect(paths.endpoint, Deadline::in_ms(limits::kConnectMs));
  if (client.ok() || client.error().code != ErrorCode::kNoDaemon) return client;
  auto wanted = read_embedded(paths);
  if (!wanted.ok()) {
    if (wanted.error().code == ErrorCode::kNotFound) return std::move(client).error();
    return std::move(wanted).error();
  }
  if (daemon_process(paths).ok()) return await_daemon(paths, nullptr);  // it is just starting
  return start_embedded(paths, *wanted);
}

Status forget_embedded(const Paths& paths) {
  if (::unlink(paths.embedded_file().c_str()) != 0 && errno != ENOENT) {
    return errno_error("remove " + paths.embedded_file(), errno);
  }
  return {};
}

}  // namespace bp::cli
