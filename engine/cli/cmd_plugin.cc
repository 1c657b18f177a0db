// `bp plugin`: what authors of stages run.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "engine/base/process.h"
#include "engine/cli/command_line.h"

namespace bp::cli {

int run_plugin_test(const std::vector<std::string>& arguments) {
  const std::string program = program_dir() + "/bp-plugin-test";
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const auto& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  std::fprintf(stderr, "bp: %s cannot be started: %s; it is part of the SDK\n", program.c_str(),
               std::strerror(errno));
  return 1;
}

void CommandLine::add_plugin_commands() {
  CLI::App* plugin = group(
      "plugin", "Stage plugins",
      "  bp plugin test build/announce.so --input serve.endpoint=@ready.pb --option folder=/tmp/a\n"
      "  bp plugin test greet.py --json\n");
  CLI::App* test = plugin->add_subcommand("test",
                                          "Drive a plugin through apply, cancel, destroy and "
                                          "recover with faults, and say what it breaks");
  test->set_help_flag();
  test->prefix_command();
  test->callback([this, test] {
    std::vector<std::string> arguments = test->remaining();
    command_ = [arguments](const Options&) { return run_plugin_test(arguments); };
  });
}

}  // namespace bp::cli
