// Plugin files by content. A run pins the hash of each plugin that it names; its file is kept below
// STATE_DIR/plugins under that hash for as long as somebody pins it, so that several versions lie side by side
// and an upgrade of the installed file does not touch runs that are under way.
//
//   STATE_DIR/plugins/HASH.so (or .py)   kept files, read-only
//   STATE_DIR/plugins/current            lines "NAME HASH": versions made current by hand; every other
//                                        plugin's current version is the installed PLUGIN_DIR/NAME.so or NAME.py
//
// Reads and writes files where it is called; hashes are remembered by inode, size and time. Thread-confined.
#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace bp::shell {

struct PluginFile {
  std::string name;
  std::string hash;  // SHA-256 of the file, hex
  std::string path;
  bool current = false;
};

class PluginFiles {
 public:
  PluginFiles(std::string plugin_dir, std::string kept_dir);

  /// The version that new runs take. kNotFound: no such plugin is installed or registered.
  Result<PluginFile> current(const std::string& name);
  /// current(), with its file kept: what a run that is submitted now pins.
  Result<PluginFile> pin(const std::string& name);
  /// The file of a pinned version; an empty hash means the current one. kNotFound says which is missing: the
  /// kept file, and the installed one has another content.
  Result<std::string> path_of(const std::string& name, const std::string& hash);
  /// Keeps a copy of any plugin file; its name is the file's own without .so or .py.
  Result<PluginFile> keep(const std::string& path);
  /// From now on new runs take this kept version; an empty hash: the installed file again.
  Status make_current(const std::string& name, const std::string& hash);
  /// Installed and kept ones. Kept files that are current nowhere have no name.
  std::vector<PluginFile> list();
  /// Removes kept files that are neither pinned nor current. Returns how many.
  size_t drop_unused(const std::set<std::string>& pinned_hashes);

 private:
  Result<std::string> hash_of(const std::string& path);
  Result<std::string> installed(const std::string& name) const;
  std::string kept(const std::string& hash) const;  // empty: not here
  std::map<std::string, std::string> read_current() const;

  struct Seen {
    uint64_t inode = 0, size = 0;
    int64_t changed_ns = 0;
    std::string hash;
  };
  const std::string plugin_dir_, kept_dir_;
  std::map<std::string, Seen> seen_;  // by path
};

}  // namespace bp::shell
