// ParStoreProcess: a real examples/quickstart/par_store.py on loopback, over a temporary folder.
// TempDir: a folder of its own under /tmp, removed with everything in it.
#pragma once
#include <string>
#include <vector>

#include "engine/base/process.h"

namespace bp::test {

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class ParStoreProcess {
 public:
  /// Serves bucket "models"; pages hold `page_limit` names.
  explicit ParStoreProcess(int page_limit = 1000);
  ~ParStoreProcess();
  ParStoreProcess(const ParStoreProcess&) = delete;
  const std::string& url() const { return url_; }
  std::string token() const;
  /// Writes an object; returns its content.
  std::string put(const std::string& name, const std::string& content);
  std::string put_random(const std::string& name, size_t size_bytes);
  /// `rules`: the JSON array of par_store.py's --faults.
  void faults(const std::string& rules);
  /// Ranges of `name` asked for so far, such as "bytes=0-9"; "" for a request without one.
  std::vector<std::string> ranges(const std::string& name) const;
  int port() const;

 private:
  TempDir dir_;
  ProcessId process_;
  std::string url_;
};

}  // namespace bp::test
