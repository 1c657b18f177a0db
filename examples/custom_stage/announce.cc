// A third-party stage: tells the rest of the world where a deployment serves, by a small JSON file that is
// there exactly while it does. Runs after `serve`. Option "folder": where the file goes.
#include <fmt/format.h>

#include "engine/base/files.h"
#include "plugins/sdk/stage.h"

namespace {

class Announce : public bp::sdk::Stage {
 public:
  StageResult run(StageContext& ctx) override {
    auto endpoint = ctx.input_message<bp::v1::EndpointReady>("serve.endpoint");
    if (!endpoint.ok()) return ctx.fail(endpoint.error());
    auto file = path(ctx);
    if (!file.ok()) return ctx.fail(file.error());
    // The handle first: whatever happens after it, destroy() knows what to remove.
    ctx.save_handle(*file);
    const std::string text = fmt::format("{{\"deployment\": \"{}\", \"url\": \"{}\"}}\n",
                                         ctx.attempt().deployment_name(), endpoint->url());
    if (auto made = bp::make_dirs(ctx.option("folder")); !made.ok()) return ctx.fail(made.error());
    if (auto wrote = bp::write_file_atomic(*file, text, 0644); !wrote.ok()) return ctx.fail(wrote.error());
    ctx.progress(1, 1, "files");
    ctx.log("info", "announced " + endpoint->url() + " in " + *file);
    return ctx.succeed({{std::string("file"), *file}});
  }

  StageResult destroy(StageContext& ctx) override {
    if (ctx.handle().empty()) return ctx.succeed();  // it never ran
    auto removed = bp::remove_tree(ctx.handle());
    return removed.ok() ? ctx.succeed() : ctx.fail(removed.error());
  }

 private:
  static bp::Result<std::string> path(StageContext& ctx) {
    const std::string folder = ctx.option("folder");
    if (folder.empty() || folder[0] != '/') {
      return bp::Error{bp::ErrorCode::kInvalidArgument, "option \"folder\" is \"" + folder + "\"",
                       "Give the stage an absolute folder in its workflow"};
    }
    return folder + "/" + ctx.attempt().deployment_name() + ".json";
  }
};

}  // namespace

BP_EXPORT_STAGE("announce", /*version=*/1, Announce)
