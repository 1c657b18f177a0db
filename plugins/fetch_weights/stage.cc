#include "plugins/fetch_weights/stage.h"

#include <algorithm>
#include <atomic>
#include <mutex>

#include "plugins/sdk/node_link.h"

namespace bp::stages {
namespace {

constexpr uint32_t kParallelRanges = 4;
constexpr int64_t kFirstPollMs = 5;
constexpr int64_t kPollMs = 80;
const char* const kFilesDir = "files";  // the node keeps mount locations below WORK_DIR/files

Result<v1::FetchObjects> make_order(sdk::StageContext& ctx, const v1::Recipe& recipe,
                                    const v1::DeploymentPlan& plan) {
  v1::FetchObjects order;
  order.set_fetch_key(ctx.effect_key());
  order.set_parallel_ranges(kParallelRanges);
  order.set_allow_private_stores(ctx.option("allow_private_stores") == "1");
  for (const auto& storage : recipe.object_storage()) {
    BP_ASSIGN(std::string url, ctx.secret(storage.par_secret()));
    order.add_sources()->set_par_url(url);
  }
  for (const auto& o : plan.objects()) {
    auto* object = order.add_objects();
    object->set_source_index(o.storage_index());
    object->set_name(o.name());
    object->set_path(o.path());
    object->set_size_bytes(o.size_bytes());
    object->set_etag(o.etag());
    object->set_md5_base64(o.md5_base64());
  }
  return order;
}

// Progress over all nodes together.
class Totals {
 public:
  Totals(sdk::StageContext& ctx, size_t nodes) : ctx_(ctx), nodes_(nodes) {}
  void update(size_t node, const v1::FetchStatus& status) {
    std::lock_guard lock(mutex_);
    nodes_[node] = status;
    uint64_t done = 0, total = 0;
    for (const auto& n : nodes_) {
      done += n.bytes_done();
      total += n.bytes_total();
    }
    ctx_.progress(done, total, "bytes");
  }
  const std::vector<v1::FetchStatus>& nodes() const { return nodes_; }
  /// One node has failed: the others need not be waited for, they go on by themselves.
  std::atomic<bool> failed{false};

 private:
  sdk::StageContext& ctx_;
  std::mutex mutex_;
  std::vector<v1::FetchStatus> nodes_;
};

Status watch_fetch(sdk::StageContext& ctx, const v1::NodeInfo& node, const v1::FetchObjects& order, size_t index,
                   Totals& totals) {
  sdk::NodeLink link(ctx, node);
  v1::NodeCommand begin, query;
  *begin.mutable_fetch() = order;
  query.mutable_fetch_query()->set_fetch_key(order.fetch_key());
  const v1::NodeCommand* next = &begin;
  int64_t poll_ms = kFirstPollMs;
  for (;;) {
    auto reply = link.call(*next);
    if (!reply.ok() && reply.error().code == ErrorCode::kNotFound && next == &query) {
      next = &begin;  // a successor of the agent knows nothing of the order yet
      continue;
    }
    if (!reply.ok()) return reply.error();
    const auto& status = reply->fetch();
    totals.update(index, status);
    if (status.has_error()) {
      return Error{error_code_from_name(status.error().code()),
                   "node " + node.node_id() + ": " + status.error().message(), status.error().remedy()};
    }
    if (status.done() || totals.failed) return {};
    next = &query;
    if (!ctx.sleep_ms(poll_ms)) return Error{ErrorCode::kCancelled, "cancelled while fetching", {}};
    poll_ms = std::min(poll_ms * 2, kPollMs);
  }
}

Status fetch_on(sdk::StageContext& ctx, const v1::NodeInfo& node, const v1::FetchObjects& order, size_t index,
                Totals& totals) {
  Status done = watch_fetch(ctx, node, order, index, totals);
  if (!done.ok()) totals.failed = true;
  return done;
}

}  // namespace

sdk::StageResult FetchWeights::run(sdk::StageContext& ctx) {
  auto recipe = ctx.input_message<v1::Recipe>("recipe");
  if (!recipe.ok()) return ctx.fail(recipe.error());
  auto plan = ctx.input_message<v1::DeploymentPlan>("validate.plan");
  if (!plan.ok()) return ctx.fail(plan.error());
  auto pool = ctx.input_message<v1::NodePool>("provision.pool");
  if (!pool.ok()) return ctx.fail(pool.error());
  auto order = make_order(ctx, *recipe, *plan);
  if (!order.ok()) return ctx.fail(order.error());
  const auto count = static_cast<size_t>(pool->nodes_size());
  Totals totals(ctx, count);
  Status done = sdk::in_parallel(count, [&](size_t i) {
    return fetch_on(ctx, pool->nodes(static_cast<int>(i)), *order, i, totals);
  });
  if (!done.ok()) return sdk::node_failure(ctx, done.error());
  v1::WeightsReady weights;
  weights.set_model_path(kFilesDir + plan->model().model_file());
  uint64_t fetched = 0, cached = 0;
  for (const auto& n : totals.nodes()) {
    cached += n.bytes_from_cache();
    fetched += n.bytes_done() - std::min(n.bytes_done(), n.bytes_from_cache());
  }
  weights.set_bytes_fetched(fetched);
  weights.set_bytes_from_cache(cached);
  ctx.log("info", std::to_string(fetched) + " bytes fetched, " + std::to_string(cached) + " from caches");
  return ctx.succeed({{std::string("weights"), weights.SerializeAsString()}});
}

}  // namespace bp::stages
