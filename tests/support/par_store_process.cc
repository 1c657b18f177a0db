#include "tests/support/par_store_process.h"

#include <signal.h>
#include <sys/wait.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "engine/base/files.h"
#include "engine/base/ids.h"

namespace bp::test {
namespace fs = std::filesystem;

TempDir::TempDir() : path_("/tmp/bp-test-" + random_hex(8)) { fs::create_directory(path_); }
TempDir::~TempDir() { (void)remove_tree(path_); }

ParStoreProcess::ParStoreProcess(int page_limit) {
  fs::create_directories(dir_ / "root/models");
  SpawnOptions o;
  o.program = "/usr/bin/env";
  o.args = {"python3",       BP_SOURCE_DIR "/examples/quickstart/par_store.py",
            "--root",        dir_ / "root",
            "--faults",      dir_ / "faults.json",
            "--request-log", dir_ / "requests",
            "--url-file",    dir_ / "url",
            "--page-limit",  std::to_string(page_limit)};
  o.log_file = dir_ / "log";
  o.die_with_parent = true;
  faults("[]");
  auto started = process_spawn(o);
  if (!started.ok()) throw std::runtime_error(started.error().to_string());
  process_ = *started;
  for (int i = 0; i < 500; ++i) {
    auto text = read_file(dir_ / "url", 4096);
    if (text.ok()) {
      url_ = text->substr(0, text->find('\n'));
      // The file comes before the loop that serves: the listening socket queues what arrives
      // earlier.
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  throw std::runtime_error("par_store.py did not start: " + read_file(dir_ / "log", 65536).value());
}

ParStoreProcess::~ParStoreProcess() {
  (void)process_signal(process_, SIGKILL);
  ::waitpid(process_.pid, nullptr, 0);
}

std::string ParStoreProcess::token() const {
  const size_t at = url_.find("/p/") + 3;
  return url_.substr(at, url_.find('/', at) - at);
}

int ParStoreProcess::port() const {
  const size_t at = url_.find(':', 7) + 1;
  return std::stoi(url_.substr(at));
}

std::string ParStoreProcess::put(const std::string& name, const std::string& content) {
  const fs::path path = dir_ / ("root/models/" + name);
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
  return content;
}

std::string ParStoreProcess::put_random(const std::string& name, size_t size_bytes) {
  std::mt19937_64 random(size_bytes + std::hash<std::string>()(name));
  std::string content(size_bytes, '\0');
  for (char& c : content) c = static_cast<char>(random());
  return put(name, content);
}

void ParStoreProcess::faults(const std::string& rules) {
  auto s = write_file_atomic(dir_ / "faults.json", "{\"rules\": " + rules + "}", 0644);
  if (!s.ok()) throw std::runtime_error(s.error().to_string());
}

std::vector<std::string> ParStoreProcess::ranges(const std::string& name) const {
  std::ifstream in(dir_ / "requests");
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) {
    auto entry = boost::json::parse(line).as_object();
    if (entry["kind"] != "get" || entry["name"] != boost::json::string_view(name)) continue;
    out.emplace_back(entry["range"].is_string() ? std::string(entry["range"].as_string()) : "");
  }
  return out;
}

}  // namespace bp::test
