#include "engine/cli/outlook.h"

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "engine/fetch/object_store.h"
#include "engine/plan/model_reader.h"

namespace bp::cli {
namespace {

constexpr int64_t kListMs = 20'000;
constexpr int64_t kHeaderMs = 40'000;

using Stores = std::vector<std::unique_ptr<fetch::ObjectStore>>;

/// True for what says nothing about the recipe: no way to the store from here, or not now.
bool tells_nothing(ErrorCode code) {
  return code == ErrorCode::kHttpRetry || code == ErrorCode::kForbiddenAddress ||
         code == ErrorCode::kDeadlineExceeded || code == ErrorCode::kUnavailable;
}

Result<std::vector<plan::StoredObject>> list_stores(const plan::ParsedRecipe& parsed,
                                                    bool allow_private, Stores* stores) {
  std::vector<plan::StoredObject> listing;
  const Deadline deadline = Deadline::in_ms(kListMs);
  for (int i = 0; i < parsed.recipe.object_storage_size(); ++i) {
    const std::string place = fmt::format("$.input_object_storage[{}].par", i);
    fetch::StoreOptions options;
    options.allow_private = allow_private;
    auto store = fetch::ObjectStore::open(
        parsed.secrets.at(parsed.recipe.object_storage(i).par_secret()), options);
    if (!store.ok()) return Error(store.error()).with_context(place);
    auto objects = (*store)->list("", deadline);
    if (!objects.ok()) return Error(objects.error()).with_context(place);
    for (auto& o : *objects) {
      listing.push_back({static_cast<uint32_t>(i), std::move(o.name), o.size_bytes,
                         std::move(o.etag), std::move(o.md5_base64)});
    }
    stores->push_back(std::move(*store));
  }
  return listing;
}

Result<v1::DeploymentPlan> whole_plan(const plan::ParsedRecipe& parsed, bool allow_private,
                                      const std::string& provider, const std::string& device) {
  Stores stores;
  BP_ASSIGN(const auto listing, list_stores(parsed, allow_private, &stores));
  const auto selection = plan::select_objects(parsed.recipe, listing);
  if (!selection.problems.empty()) {
    return Error{ErrorCode::kInvalidRecipe,
                 "the recipe does not match what the stores hold:\n" +
                     plan::format_problems(selection.problems),
                 {}};
  }
  const Deadline deadline = Deadline::in_ms(kHeaderMs);
  const plan::ObjectSource source{
      [&](const v1::PlannedObject& o, uint64_t offset, uint64_t size_bytes) {
        return stores[o.storage_index()]->read(o.name(), offset, size_bytes, deadline);
      },
      [&](const v1::PlannedObject& o) { return stores[o.storage_index()]->describe(); }};
  BP_ASSIGN(const auto model, plan::read_model(source, selection));
  return plan::make_deployment_plan(parsed.recipe, selection, model.config, model.tensors, provider,
                                    device);
}

}  // namespace

Result<Outlook> look_outside(const plan::ParsedRecipe& parsed, const Options& o) {
  const std::string provider = o.daemon.provider.empty() ? "local" : o.daemon.provider;
  const std::string device = o.daemon.device.empty() ? "cpu" : o.daemon.device;
  auto whole = whole_plan(parsed, o.daemon.allow_private_stores, provider, device);
  if (whole.ok()) return Outlook{std::move(*whole), std::nullopt};
  if (!tells_nothing(whole.error().code)) return whole.error();
  Error unknown = whole.error();
  if (unknown.code == ErrorCode::kForbiddenAddress && !o.daemon.allow_private_stores) {
    unknown.remedy = "Give --allow-private-stores where this store is one that you trust";
  }
  return Outlook{plan::outline_plan(parsed.recipe, provider, device), std::move(unknown)};
}

}  // namespace bp::cli
