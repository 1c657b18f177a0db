#include "runtime/rank/rank_model.h"

#include <algorithm>
#include <cstring>

#include "engine/base/ids.h"
#include "runtime/models/model_runner.h"
#include "runtime/weights/weight_source.h"

namespace bp::rt {
namespace {

constexpr size_t kSampleBytes = 256;

/// Beginning, middle and end of a tensor: other weights of the same shape differ there.
void add_samples(std::span<const std::byte> bytes, std::string* text) {
  const size_t size = std::min(kSampleBytes, bytes.size());
  for (const size_t at : {size_t{0}, (bytes.size() - size) / 2, bytes.size() - size}) {
    text->append(reinterpret_cast<const char*>(bytes.data()) + at, size);
  }
}

/// The same for copies of one model on different nodes, unlike WeightSource::content_key, which names files
/// of this node. Reads a few pages of every tensor.
std::string model_key_of(const WeightSource& source) {
  std::vector<std::string> names = {"model.embed_tokens", "model.norm", "lm_head"};
  for (uint32_t layer = 0; layer < source.config().shape.layers; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    for (const char* part : {"input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                             "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      names.push_back(at + part);
    }
  }
  std::string text;
  for (const std::string& name : names) {
    auto tensor = source.find(name);
    if (!tensor.ok()) continue;  // lm_head of a tied model
    text += name + ":" + plan::weight_type_name(tensor->type) + ":" + std::to_string(tensor->size_bytes) + ";";
    add_samples(source.bytes(*tensor), &text);
  }
  return sha256_hex(text);
}

class OpenedModel final : public RankModel {
 public:
  OpenedModel(std::unique_ptr<WeightSource> source, RunnerOptions options, uint64_t weights_bytes)
      : source_(std::move(source)), options_(std::move(options)), weights_bytes_(weights_bytes),
        model_key_(model_key_of(*source_)) {}
  const std::string& model_key() const override { return model_key_; }
  std::string numerics_class() const override { return numerics_class_here(options_.exact); }
  uint64_t weights_bytes() const override { return weights_bytes_; }
  uint64_t kv_bytes() const override {
    return kv_segment_bytes(options_.plan, options_.rank, options_.kv_block_tokens, options_.kv_blocks,
                            options_.exact);
  }
  Result<std::unique_ptr<ModelRunner>> load(RunnerMemory memory, RunnerComms comms,
                                            const std::function<void(uint64_t, uint64_t)>& progress,
                                            bool* reused) override {
    auto runner = ModelRunner::load(*source_, options_, memory, comms, progress, reused);
    source_->forget_pages();   // all of it is in the weights segment now
    return runner;
  }

 private:
  std::unique_ptr<WeightSource> source_;
  RunnerOptions options_;
  uint64_t weights_bytes_;
  std::string model_key_;
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
