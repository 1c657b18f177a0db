#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "engine/base/files.h"
#include "engine/base/secret.h"
#include "engine/node/process_table.h"

namespace bp::node {
namespace {

constexpr int kArgsMax = 256;
constexpr int kEnvMax = 256;
constexpr int kSegmentsMax = 32;
constexpr size_t kTextMax = 8192;

Error bad(const std::string& what, const std::string& found, const std::string& expected) {
  return {ErrorCode::kInvalidArgument,
          "start: " + what + " is \"" + found.substr(0, 80) + "\", expected " + expected,
          {}};
}

bool is_env_name(const std::string& name) {
  return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

bool is_text(const std::string& s) {
  return s.size() <= kTextMax && s.find('\0') == std::string::npos;
}

}  // namespace

Status check_start(const v1::StartProcess& w) {
  if (!is_plain_name(w.process_key()))
    return bad("process_key", w.process_key(), "[a-z0-9-], at most 64 characters");
  if (w.program() != "bp-head" && w.program() != "bp-rank")
    return bad("program", w.program(), "bp-head or bp-rank");
  if (w.args_size() > kArgsMax || w.env_size() > kEnvMax || w.segments_size() > kSegmentsMax) {
    return Error{ErrorCode::kTooLarge, "start: too many arguments, variables or segments", {}};
  }
  for (const auto& a : w.args()) {
    if (!is_text(a)) return bad("an argument", "(not text)", "text of at most 8192 bytes");
  }
  for (const auto& [name, value] : w.env()) {
    if (!is_env_name(name)) return bad("a variable's name", name, "letters, digits and _");
    if (!is_text(value)) return bad("variable " + name, "(not text)", "text of at most 8192 bytes");
  }
  return {};
}

std::vector<ProcessId> processes_marked(const std::string& work_dir) {
  std::vector<ProcessId> out;
  const std::string mark = "BP_NODE_WORK_DIR=" + work_dir;
  std::error_code ec;
  for (std::filesystem::directory_iterator it("/proc", ec), end; !ec && it != end;
       it.increment(ec)) {
    const std::string name = it->path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto pid = static_cast<pid_t>(std::strtol(name.c_str(), nullptr, 10));
    auto id = process_identity(pid);
    auto env = read_file("/proc/" + name + "/environ", 2 << 20);
    if (!id.ok() || !env.ok() || pid == ::getpid()) continue;
    const std::string_view text = *env;
    for (size_t at = 0; at < text.size();) {
      const size_t next = std::min(text.find('\0', at), text.size());
      if (text.substr(at, next - at) == mark) {
        if (process_alive(*id)) out.push_back(*id);
        break;
      }
      at = next + 1;
    }
  }
  return out;
}

std::string log_tail(const std::string& path, size_t max_bytes) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return {};
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  const off_t from = std::max<off_t>(0, size - static_cast<off_t>(max_bytes));
  std::string out(static_cast<size_t>(size - from), '\0');
  const ssize_t n = ::pread(fd.get(), out.data(), out.size(), from);
  out.resize(n > 0 ? static_cast<size_t>(n) : 0);
  if (from > 0) {
    const size_t line = out.find('\n');
    if (line != std::string::npos) out.erase(0, line + 1);
  }
  out = redact(out);
  // Protobuf strings are UTF-8; a log may hold anything.
  for (char& c : out) {
    if (static_cast<unsigned char>(c) >= 0x80 ||
        (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t'))
      c = '?';
  }
  return out;
}

}  // namespace bp::node
