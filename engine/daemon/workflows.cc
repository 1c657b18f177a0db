#include "engine/daemon/workflows.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "engine/base/files.h"
#include "engine/core/core.h"

namespace bp::daemon {
namespace {

Result<v1::WorkflowDefinition> load(const std::string& path) {
  BP_ASSIGN(auto text, read_file(path, 1 << 20));
  v1::WorkflowDefinition w;
  auto status = google::protobuf::util::JsonStringToMessage(text, &w);
  if (!status.ok()) {
    return Error{ErrorCode::kInvalidArgument, path + ": " + std::string(status.message()), {}};
  }
  if (w.name().empty())
    return Error{ErrorCode::kInvalidArgument, path + ": the workflow has no name", {}};
  // Names become file names.
  for (const auto& s : w.stages()) {
    const bool has_no_plugin = !s.wait_signal().empty() || s.sleep_ms() > 0;
    const std::string names[] = {s.name(), s.plugin()};
    for (const std::string& name : names) {
      const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '_' || c == '-';
      });
      const bool may_be_empty = &name == &names[1] && has_no_plugin;
      if ((name.empty() && !may_be_empty) || name.size() > 64 || !plain) {
        return Error{
            ErrorCode::kInvalidArgument,
            path + ": stage and plugin names have 1 to 64 letters, digits, _ and -; found \"" +
                name + "\"",
            {}};
      }
    }
  }
  Status checked = core::check_workflow(w);
  if (!checked.ok()) return std::move(checked).error().with_context(path);
  return w;
}

}  // namespace

Result<std::map<std::string, v1::WorkflowDefinition>> load_workflows(const std::string& folder) {
  std::map<std::string, v1::WorkflowDefinition> out;
  std::vector<std::string> files;
  std::error_code ec;
  for (const auto& e : std::filesystem::directory_iterator(folder, ec)) {
    if (e.path().extension() == ".json") files.push_back(e.path().string());
  }
  if (ec) return errno_error("read the workflows in " + folder, ec.value());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    BP_ASSIGN(auto w, load(file));
    const std::string name = w.name();
    if (!out.emplace(name, std::move(w)).second) {
      return Error{ErrorCode::kInvalidArgument,
                   file + ": another file has workflow \"" + name + "\" already",
                   {}};
    }
  }
  if (!out.count("default")) {
    return Error{ErrorCode::kNotFound, "no workflow \"default\" in " + folder,
                 "Name the folder with --plugin-dir or --workflow-dir"};
  }
  return out;
}

}  // namespace bp::daemon
