#include "runtime/rank/rank_model.h"

#include "runtime/models/model_runner.h"
#include "runtime/weights/weight_source.h"

namespace bp::rt {
namespace {

class OpenedModel final : public RankModel {
 public:
  OpenedModel(std::unique_ptr<WeightSource> source, RunnerOptions options, uint64_t weights_bytes)
      : source_(std::move(source)), options_(std::move(options)), weights_bytes_(weights_bytes) {}
  const std::string& model_key() const override { return source_->content_key(); }
  std::string numerics_class() const override { return numerics_class_here(options_.exact); }
  uint64_t weights_bytes() const override { return weights_bytes_; }
  uint64_t kv_bytes() const override {
    return kv_segment_bytes(options_.plan, options_.rank, options_.kv_block_tokens, options_.kv_blocks,
                            options_.exact);
  }
  Result<std::unique_ptr<ModelRunner>> load(RunnerMemory memory, RunnerComms comms,
                                            const std::function<void(uint64_t, uint64_t)>& progress,
                                            bool* reused) override {
    return ModelRunner::load(*source_, options_, memory, comms, progress, reused);
  }

 private:
  std::unique_ptr<WeightSource> source_;
  RunnerOptions options_;
  uint64_t weights_bytes_;
};

Status same_layers(const v1::DeploymentPlan& plan, const plan::ShardPlan& shards) {
  for (const auto& r : plan.ranks()) {
    const auto& layers = shards.ranks[r.rank()].layers;
    if (r.first_layer() != layers.begin || r.layer_count() != layers.size()) {
      return Error{ErrorCode::kConflict,
                   "the plan gives rank " + std::to_string(r.rank()) + " layers " +
                       std::to_string(r.first_layer()) + "+" + std::to_string(r.layer_count()) +
                       ", this build and model file " + std::to_string(layers.begin) + "+" +
                       std::to_string(layers.size()),
                   "The model on the node is not the one that was planned, or the releases differ"};
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<RankModel>> open_rank_model(const v1::RankConfig& config) {
  BP_ASSIGN(auto source, open_weights(config.model_path()));
  RunnerOptions o;
  BP_ASSIGN(o.plan, plan::make_shard_plan(source->config().shape, config.plan().tp_size(), config.plan().pp_size()));
  BP_TRY(same_layers(config.plan(), o.plan));
  o.rank = config.rank();
  o.kv_block_tokens = config.plan().kv_block_tokens();
  o.kv_blocks = config.plan().kv_blocks();
  o.exact = config.exact();
  o.threads = std::max(1u, config.threads());
  BP_ASSIGN(uint64_t bytes, weights_segment_bytes(*source, o.plan, o.rank, o.exact));
  return std::unique_ptr<RankModel>(new OpenedModel(std::move(source), std::move(o), bytes));
}

}  // namespace bp::rt
