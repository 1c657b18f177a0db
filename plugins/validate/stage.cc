#include "plugins/validate/stage.h"

#include "engine/fetch/object_store.h"
#include "engine/plan/model_reader.h"

namespace bp::stages {
namespace {

constexpr int64_t kListMs = 30'000;
constexpr int64_t kHeaderMs = 45'000;

std::string storage_path(int index) { return "$.input_object_storage[" + std::to_string(index) + "]"; }

Result<std::unique_ptr<fetch::ObjectStore>> open_store(sdk::StageContext& ctx, const v1::Recipe& recipe, int i) {
  const auto& storage = recipe.object_storage(i);
  if (storage.par_secret().empty()) {
    return Error{ErrorCode::kUnsupported,
                 storage_path(i) + ": a bucket by name (\"" + storage.bucket_name() +
                     "\") needs a provider with an identity of its own at the store",
                 "Give the bucket's pre-authenticated request as \"par\""};
  }
  BP_ASSIGN(std::string url, ctx.secret(storage.par_secret()));
  fetch::StoreOptions options;
  options.allow_private = ctx.option("allow_private_stores") == "1";
  options.cancelled = [&ctx] { return ctx.cancelled(); };
  auto store = fetch::ObjectStore::open(Secret(std::move(url)), options);
  if (!store.ok()) return Error(store.error()).with_context(storage_path(i) + ".par");
  return store;
}

}  // namespace

sdk::StageResult Validate::run(sdk::StageContext& ctx) {
  auto recipe = ctx.input_message<v1::Recipe>("recipe");
  if (!recipe.ok()) return ctx.fail(recipe.error());
  std::vector<std::unique_ptr<fetch::ObjectStore>> stores;
  std::vector<plan::StoredObject> listing;
  const auto steps = static_cast<uint64_t>(recipe->object_storage_size()) + 2;
  for (int i = 0; i < recipe->object_storage_size(); ++i) {
    ctx.progress(static_cast<uint64_t>(i), steps, "steps", "listing " + storage_path(i));
    auto store = open_store(ctx, *recipe, i);
    if (!store.ok()) return ctx.fail(store.error());
    auto objects = (*store)->list("", Deadline::in_ms(kListMs));
    if (!objects.ok()) return ctx.fail(Error(objects.error()).with_context(storage_path(i) + ".par"));
    for (auto& o : *objects) {
      listing.push_back({static_cast<uint32_t>(i), std::move(o.name), o.size_bytes, std::move(o.etag),
                         std::move(o.md5_base64)});
    }
    ctx.log("info", storage_path(i) + ": " + std::to_string(objects->size()) + " objects in " +
                        (*store)->describe());
    stores.push_back(std::move(*store));
  }
  if (ctx.cancelled()) return ctx.cancelled_result();
  auto selection = plan::select_objects(*recipe, listing);
  if (!selection.problems.empty()) {
    std::string text = "the recipe does not match what the stores hold:";
    for (const auto& p : selection.problems) {
      text += "\n" + p.path() + ": found " + p.found() + ", expected " + p.expected();
    }
    return ctx.fail(Error{ErrorCode::kInvalidRecipe, text, {}}, selection.problems);
  }
  ctx.progress(steps - 2, steps, "steps", "reading the header of " + selection.model_file);
  const Deadline header = Deadline::in_ms(kHeaderMs);
  auto model = plan::read_model(
      {[&](const v1::PlannedObject& o, uint64_t offset, uint64_t size) {
         return stores[o.storage_index()]->read(o.name(), offset, size, header);
       },
       [&](const v1::PlannedObject& o) { return stores[o.storage_index()]->describe(); }},
      selection);
  if (!model.ok()) return ctx.fail(model.error());
  auto made = plan::make_deployment_plan(*recipe, selection, model->config, model->tensors,
                                         ctx.option("provider", "local"), ctx.option("device", "cpu"));
  if (!made.ok()) return ctx.fail(made.error());
  ctx.progress(steps, steps, "steps", "planned");
  ctx.log("info", plan::format_plan(*recipe, *made));
  return ctx.succeed({{std::string("plan"), made->SerializeAsString()}});
}

}  // namespace bp::stages
