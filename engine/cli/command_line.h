// The command line of bp: which commands there are, their options and examples. What they do is in
// commands.h.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>

#include "engine/cli/commands.h"

namespace bp::cli {

using Command = std::function<int(const Options&)>;

class CommandLine {
 public:
  CommandLine();
  CLI::App& app() { return app_; }
  Options& options() { return options_; }
  const Command& command() const { return command_; }

 private:
  CLI::App* add(CLI::App* parent, const char* name, const char* what, const char* examples,
                Command run);
  CLI::App* group(const char* name, const char* what, const char* examples);
  void add_recipe_commands();
  void add_run_commands();
  void add_control_commands();
  void add_generate();
  // command_line_engine.cc
  void add_any_run_commands();
  void add_bulk_commands();
  void add_workflow_commands();
  void add_schedule_commands();
  void add_journal_commands();
  void add_plugin_commands();

  void recipe_options(CLI::App* c);
  CLI::App* with_id(CLI::App* c);
  void waiting(CLI::App* c);
  void filter_options(CLI::App* c, bool with_ids);
  void new_run_options(CLI::App* c);
  void key_option(CLI::App* c);

  CLI::App app_{"bp: deploy recipes through bp-daemon and talk to what they serve"};
  Options options_;
  Command command_;
};

}  // namespace bp::cli
