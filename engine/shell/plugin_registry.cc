#include "engine/shell/plugin_registry.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "engine/base/files.h"
#include "engine/base/ids.h"

namespace bp::shell {
namespace {

constexpr size_t kPluginBytes = 512 << 20;
constexpr size_t kCurrentBytes = 1 << 20;
constexpr const char* kKinds[] = {".so", ".py"};  // in this order

bool readable(const std::string& path) { return ::access(path.c_str(), R_OK) == 0; }

bool is_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

}  // namespace

PluginFiles::PluginFiles(std::string plugin_dir, std::string kept_dir)
    : plugin_dir_(std::move(plugin_dir)), kept_dir_(std::move(kept_dir)) {}

Result<std::string> PluginFiles::installed(const std::string& name) const {
  for (const char* kind : kKinds) {
    const std::string path = plugin_dir_ + "/" + name + kind;
    if (is_name(name) && readable(path)) return path;
  }
  return Error{ErrorCode::kNotFound, "no plugin " + plugin_dir_ + "/" + name + ".so or .py",
               "Install it, or name its folder with --plugin-dir"};
}

std::string PluginFiles::kept(const std::string& hash) const {
  if (!is_name(hash)) return {};
  for (const char* kind : kKinds) {
    const std::string path = kept_dir_ + "/" + hash + kind;
    if (readable(path)) return path;
  }
  return {};
}

Result<std::string> PluginFiles::hash_of(const std::string& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0) return errno_error("look at plugin " + path, errno);
  const int64_t changed_ns = int64_t{s.st_mtim.tv_sec} * 1'000'000'000 + s.st_mtim.tv_nsec;
  Seen& seen = seen_[path];
  if (!seen.hash.empty() && seen.inode == s.st_ino &&
      seen.size == static_cast<uint64_t>(s.st_size) && seen.changed_ns == changed_ns) {
    return seen.hash;
  }
  BP_ASSIGN(auto bytes, read_file(path, kPluginBytes));
  seen = Seen{s.st_ino, static_cast<uint64_t>(s.st_size), changed_ns, sha256_hex(bytes)};
  return seen.hash;
}

std::map<std::string, std::string> PluginFiles::read_current() const {
  std::map<std::string, std::string> out;
  auto text = read_file(kept_dir_ + "/current", kCurrentBytes);
  if (!text.ok()) return out;
  std::istringstream lines(*text);
  for (std::string name, hash; lines >> name >> hash;) {
    if (is_name(name) && is_name(hash)) out[name] = hash;
  }
  return out;
}

Result<PluginFile> PluginFiles::current(const std::string& name) {
  const auto chosen = read_current();
  if (auto it = chosen.find(name); it != chosen.end()) {
    const std::string path = kept(it->second);
    if (!path.empty()) return PluginFile{name, it->second, path, true};
    return Error{
        ErrorCode::kNotFound,
        "the current version of plugin " + name + ", " + it->second + ", is not in " + kept_dir_,
        "Register it again"};
  }
  BP_ASSIGN(auto path, installed(name));
  BP_ASSIGN(auto hash, hash_of(path));
  return PluginFile{name, hash, path, true};
}

Result<PluginFile> PluginFiles::keep(const std::string& path) {
  const std::filesystem::path file(path);
  const std::string kind = file.extension().string(), name = file.stem().string();
  if ((kind != kKinds[0] && kind != kKinds[1]) || !is_name(name)) {
    return Error{
        ErrorCode::kInvalidArgument, "plugin file " + path + "; expected NAME.so or NAME.py", {}};
  }
  BP_ASSIGN(auto bytes, read_file(path, kPluginBytes));
  PluginFile plugin{name, sha256_hex(bytes), {}, false};
  plugin.path = kept(plugin.hash);
  if (!plugin.path.empty()) return plugin;
  BP_TRY(make_dirs(kept_dir_));
  plugin.path = kept_dir_ + "/" + plugin.hash + kind;
  BP_TRY(write_file_atomic(plugin.path, bytes, 0500));
  return plugin;
}

Result<PluginFile> PluginFiles::pin(const std::string& name) {
  BP_ASSIGN(auto plugin, current(name));
  if (kept(plugin.hash).empty()) {
    // Copied and hashed from the same bytes: the installed file may be replaced meanwhile.
    BP_ASSIGN(plugin, keep(plugin.path));
  } else {
    plugin.path = kept(plugin.hash);
  }
  plugin.name = name;
  plugin.current = true;
  return plugin;
}

Result<std::string> PluginFiles::path_of(const std::string& name, const std::string& hash) {
  if (hash.empty()) {
    BP_ASSIGN(auto plugin, current(name));
    return plugin.path;
  }
  if (std::string path = kept(hash); !path.empty()) return path;
  BP_ASSIGN(auto path, installed(name));
  BP_ASSIGN(auto found, hash_of(path));
  if (found == hash) return path;
  return Error{ErrorCode::kNotFound,
               "version " + hash + " of plugin " + name + " is gone: " + path + " is now " + found,
               "Register that version again, or migrate the run onto the current one"};
}

Status PluginFiles::make_current(const std::string& name, const std::string& hash) {
  if (!is_name(name))
    return Error{ErrorCode::kInvalidArgument, "\"" + name + "\" is no name of a plugin", {}};
  auto chosen = read_current();
  if (hash.empty()) {
    chosen.erase(name);
  } else if (kept(hash).empty()) {
    return Error{
        ErrorCode::kNotFound, "no version " + hash + " of plugin " + name + " in " + kept_dir_, {}};
  } else {
    chosen[name] = hash;
  }
  std::string text;
  for (const auto& [n, h] : chosen) text += n + " " + h + "\n";
  BP_TRY(make_dirs(kept_dir_));
  return write_file_atomic(kept_dir_ + "/current", text);
}

std::vector<PluginFile> PluginFiles::list() {
  std::vector<PluginFile> out;
  std::set<std::string> named;
  const auto chosen = read_current();
  for (const auto& [name, hash] : chosen) {
    out.push_back({name, hash, kept(hash), true});
    named.insert(hash);
  }
  std::error_code ec;
  for (const auto& e : std::filesystem::directory_iterator(plugin_dir_, ec)) {
    const std::string kind = e.path().extension().string(), name = e.path().stem().string();
    if ((kind != kKinds[0] && kind != kKinds[1]) || !is_name(name)) continue;
    auto hash = hash_of(e.path().string());
    if (!hash.ok()) continue;
    out.push_back({name, *hash, e.path().string(), chosen.count(name) == 0});
    named.insert(*hash);
  }
  for (const auto& e : std::filesystem::directory_iterator(kept_dir_, ec)) {
    const std::string hash = e.path().stem().string();
    if (e.path().has_extension() && !named.count(hash) && is_name(hash)) {
      out.push_back({{}, hash, e.path().string(), false});
    }
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
    return std::tie(a.name, b.current, a.hash) < std::tie(b.name, a.current, b.hash);
  });
  return out;
}

size_t PluginFiles::drop_unused(const std::set<std::string>& pinned) {
  std::set<std::string> used = pinned;
  for (const auto& [name, hash] : read_current()) used.insert(hash);
  size_t dropped = 0;
  std::error_code ec;
  std::vector<std::filesystem::path> unused;
  for (const auto& e : std::filesystem::directory_iterator(kept_dir_, ec)) {
    const std::string kind = e.path().extension().string();
    if ((kind == kKinds[0] || kind == kKinds[1]) && !used.count(e.path().stem().string()))
      unused.push_back(e.path());
  }
  for (const auto& path : unused) dropped += std::filesystem::remove(path, ec) ? 1 : 0;
  return dropped;
}

}  // namespace bp::shell
