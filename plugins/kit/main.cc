// bp-plugin-test: what `bp plugin test` runs. Exit status: 0 all kept, 1 something is broken, 2 bad
// usage, 4 no such file.
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>

#include "engine/base/files.h"
#include "engine/base/process.h"
#include "engine/bus/bus.h"
#include "plugins/kit/kit.h"

namespace {

constexpr size_t kInputBytes = 16 << 20;

// "NAME=VALUE", or with `files` "NAME=@FILE".
bool take(const std::vector<std::string>& words, bool files,
          std::map<std::string, std::string>& into) {
  for (const auto& word : words) {
    const size_t at = word.find('=');
    if (at == std::string::npos || at == 0) {
      std::fprintf(stderr, "bp plugin test: \"%s\"; expected NAME=VALUE\n", word.c_str());
      return false;
    }
    std::string value = word.substr(at + 1);
    if (files && value.starts_with('@')) {
      auto text = bp::read_file(value.substr(1), kInputBytes);
      if (!text.ok()) {
        std::fprintf(stderr, "bp plugin test: %s\n", text.error().to_string().c_str());
        return false;
      }
      value = std::move(*text);
    }
    into[word.substr(0, at)] = value;
  }
  return true;
}

int show(const std::vector<bp::kit::Finding>& findings, bool json) {
  static const char* words[] = {"kept", "broken", "skipped"};
  int broken = 0;
  boost::json::array list;
  for (const auto& f : findings) {
    broken += f.verdict == bp::kit::Finding::kBroken;
    if (json) {
      list.push_back({{"check", f.check}, {"verdict", words[f.verdict]}, {"text", f.text}});
    } else {
      std::printf("%-20s %-8s %s\n", f.check.c_str(), words[f.verdict], f.text.c_str());
    }
  }
  if (json) {
    std::printf(
        "%s\n",
        boost::json::serialize(boost::json::object{{"broken", broken}, {"checks", list}}).c_str());
  } else {
    std::printf("%zu checks, %d broken\n", findings.size(), broken);
  }
  return broken ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  bp::bus::quiet_protobuf();
  CLI::App app{
      "Drives a stage plugin through apply, cancel, destroy and recover with faults, and says what "
      "it breaks",
      "bp plugin test"};
  bp::kit::Options o;
  std::string file;
  std::vector<std::string> inputs, options, secrets;
  bool json = false, list = false;
  app.add_option("FILE", file, "the plugin: NAME.so or NAME.py");
  app.add_option("--input", inputs, "NAME=TEXT or NAME=@FILE; repeatable");
  app.add_option("--option", options, "NAME=TEXT; repeatable");
  app.add_option("--secret", secrets, "NAME=@FILE; repeatable");
  app.add_option("--apply-ms", o.apply_ms, "an attempt may take so long");
  app.add_option("--cancel-ms", o.cancel_ms, "an attempt that is told to end may take so long");
  app.add_option("--only", o.only, "these checks alone, and what they build on; see --list")
      ->delimiter(',');
  app.add_flag("--outputs-vary", o.outputs_vary, "a second apply may give other outputs");
  app.add_flag("--json", json, "one JSON object");
  app.add_flag("--list", list, "the checks and what they demand");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (list) {
    for (const auto& [name, demands] : bp::kit::checks())
      std::printf("%-20s %s\n", name.c_str(), demands.c_str());
    return 0;
  }
  if (file.empty() || !take(inputs, true, o.inputs) || !take(options, false, o.options) ||
      !take(secrets, true, o.secrets)) {
    if (file.empty()) std::fprintf(stderr, "bp plugin test: name the plugin's file\n");
    return 2;
  }
  std::error_code ec;
  o.plugin = std::filesystem::canonical(file, ec).string();
  if (ec) {
    std::fprintf(stderr, "bp plugin test: no file %s\n", file.c_str());
    return 4;
  }
  o.host_program =
      bp::program_dir() +
      (o.plugin.ends_with(".py") ? "/../lib/bp-daemon/python/bp_stage_host.py" : "/bp-stage-host");
  char folder[] = "/tmp/bp-plugin-test-XXXXXX";
  if (!::mkdtemp(folder)) return 1;
  o.folder = folder;
  auto findings = bp::kit::run_kit(o);
  (void)bp::remove_tree(folder);
  if (findings.ok()) return show(*findings, json);
  std::fprintf(stderr, "bp plugin test: %s\n", findings.error().to_string().c_str());
  return 1;
}
