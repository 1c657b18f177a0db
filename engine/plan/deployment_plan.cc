#include "engine/plan/deployment_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "engine/base/limits.h"
#include "engine/plan/rank_bytes.h"
#include "engine/plan/shape_catalogue.h"

namespace bp::plan {
namespace {

constexpr uint32_t kBlockTokens = 16;
constexpr uint32_t kContextMax = 8192;  // per request; longer ones need a pool of their own size
constexpr uint32_t kContextsInPool = 16;
constexpr uint64_t kCpuPoolBytes = 256ull << 20;  // per rank, unless one context needs more
constexpr double kGpuShare = 0.9;                 // of the GPU's memory, as vLLM's default

struct Sizes {
  ShardPlan shard;
  std::vector<RankBytes> ranks;
  uint32_t context = 0;
  uint32_t blocks = 0;
  uint64_t largest_rank() const {
    uint64_t most = 0;
    for (size_t i = 0; i < ranks.size(); ++i) most = std::max(most, total(i));
    return most;
  }
  uint64_t kv(size_t rank) const { return ranks[rank].kv_per_token * kBlockTokens * blocks; }
  uint64_t total(size_t rank) const { return ranks[rank].weights + ranks[rank].buffers + kv(rank); }
};

struct Wanted {
  const ModelConfig& config;
  const std::vector<TensorInfo>& tensors;
  FileFormat format;
  bool cpu;
  uint64_t rank_limit;  // bytes of GPU memory that a rank may use
};

/// Blocks of the KV pool: 16 contexts, as far as memory goes, and one at least.
uint32_t pool_blocks(const Wanted& w, const Sizes& s) {
  uint64_t room = UINT64_MAX, per_token = 1;
  for (const RankBytes& r : s.ranks) {
    const uint64_t fixed = r.weights + r.buffers;
    uint64_t budget = fixed < w.rank_limit ? w.rank_limit - fixed : 0;
    if (w.cpu) budget = std::min(budget, kCpuPoolBytes);
    room = std::min(room, budget / (r.kv_per_token * kBlockTokens));
    per_token = std::max(per_token, r.kv_per_token);
  }
  const uint64_t one = (uint64_t{s.context} + kBlockTokens - 1) / kBlockTokens;
  return static_cast<uint32_t>(std::clamp(room, one, one * kContextsInPool));
}

Result<Sizes> size_layout(const Wanted& w, uint32_t tp_size, uint32_t pp_size) {
  Sizes s;
  BP_ASSIGN(s.shard, make_shard_plan(w.config.shape, tp_size, pp_size));
  s.ranks = rank_bytes(s.shard, w.format, w.tensors, w.cpu ? 4 : 2);
  s.context = std::min(w.config.max_position, kContextMax);
  s.blocks = pool_blocks(w, s);
  return s;
}

/// "TP 2 x PP 4 (4 nodes of VM.GPU.A10.2)": the smallest layout of this shape that fits; else a
/// larger shape; else an admission.
std::string nearest_layout(const Wanted& w, const NodeShape& shape, uint32_t pp_wanted) {
  const uint32_t pp_max = std::min<uint32_t>(w.config.shape.layers, limits::kNodesMax);
  std::string best;
  uint32_t best_distance = UINT32_MAX;
  for (uint32_t tp = 1; tp <= shape.gpus; ++tp) {
    for (uint32_t pp = 1; pp <= pp_max; ++pp) {
      auto s = size_layout(w, tp, pp);
      if (!s.ok() || s->largest_rank() > w.rank_limit) continue;
      const uint32_t distance =
          (pp > pp_wanted ? pp - pp_wanted : pp_wanted - pp) * shape.gpus + (shape.gpus - tp);
      if (distance < best_distance) {
        best_distance = distance;
        best = fmt::format("TP {} x PP {} ({} nodes of {} with {} GPUs each)", tp, pp, pp,
                           shape.name, tp);
      }
    }
  }
  if (!best.empty()) return "the nearest layout that fits is " + best;
  return fmt::format("no layout of {} fits; choose a shape with more GPU memory", shape.name);
}

Result<Sizes> fit_layout(const Wanted& w, const v1::Recipe& recipe, const NodeShape& shape) {
  const uint32_t tp = recipe.gpus_per_node(), pp = recipe.node_pool_size();
  auto s = size_layout(w, tp, pp);
  if (!s.ok()) {
    Error e = std::move(s).error();
    if (e.code == ErrorCode::kDoesNotFit) e.message += "; " + nearest_layout(w, shape, pp);
    return e;
  }
  if (s->largest_rank() > w.rank_limit) {
    return Error{
        ErrorCode::kDoesNotFit,
        fmt::format("TP {} x PP {}: a rank needs {} MB for weights, one context of KV cache and "
                    "buffers, expected at most {} MB of a GPU of {}; {}",
                    tp, pp, s->largest_rank() / 1'000'000, w.rank_limit / 1'000'000, shape.name,
                    nearest_layout(w, shape, pp)),
        {}};
  }
  return s;
}

/// Host memory that the recipe declares must hold what the node's stand-ins use.
Status check_host_memory(const v1::Recipe& recipe, const Sizes& s) {
  const uint64_t declared = uint64_t{recipe.memory_gbs_per_node()} * 1'000'000'000;
  for (uint32_t node = 0; node < s.shard.pp_size; ++node) {
    uint64_t used = 0;
    for (uint32_t tp = 0; tp < s.shard.tp_size; ++tp) used += s.total(node * s.shard.tp_size + tp);
    if (used > declared) {
      return Error{
          ErrorCode::kDoesNotFit,
          fmt::format("node {}: its ranks need {} MB of host memory, expected at most the {} GB "
                      "declared",
                      node, used / 1'000'000, recipe.memory_gbs_per_node()),
          "Raise head_ and worker_node_cpu_mem_in_gbs"};
    }
  }
  return {};
}

void fill_model(const v1::Recipe& recipe, const ObjectSelection& objects, const Wanted& w,
                v1::ModelSummary& m) {
  const ModelShape& s = w.config.shape;
  m.set_name(recipe.model_path());
  m.set_architecture("LlamaForCausalLM");
  m.set_format(objects.format);
  std::map<WeightType, uint64_t> by_type;
  for (const TensorInfo& t : w.tensors) {
    uint64_t n = 1;
    for (uint64_t d : t.shape) n *= d;
    m.set_parameter_count(m.parameter_count() + n);
    m.set_file_bytes(m.file_bytes() + t.size_bytes);
    by_type[t.type] += t.size_bytes;
  }
  auto most = std::max_element(by_type.begin(), by_type.end(),
                               [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != by_type.end()) m.set_weight_type(weight_type_name(most->first));
  m.set_layers(s.layers);
  m.set_hidden(s.hidden);
  m.set_heads(s.heads);
  m.set_kv_heads(s.kv_heads);
  m.set_vocab(s.vocab);
  m.set_model_file(objects.model_file);
}

void fill_nodes(const v1::Recipe& recipe, v1::DeploymentPlan& plan) {
  for (uint32_t i = 0; i < recipe.node_pool_size(); ++i) {
    v1::NodePlan& n = *plan.add_nodes();
    n.set_index(i);
    n.set_is_head(i == 0);
    n.set_gpus(recipe.gpus_per_node());
    n.set_cpus(recipe.cpus_per_node());
    n.set_memory_bytes(uint64_t{recipe.memory_gbs_per_node()} * 1'000'000'000);
  }
}

void fill_ranks(const Sizes& s, v1::DeploymentPlan& plan) {
  for (const RankShard& r : s.shard.ranks) {
    v1::RankPlan& p = *plan.add_ranks();
    p.set_rank(r.rank);
    p.set_tp_rank(r.tp_rank);
    p.set_pp_rank(r.pp_rank);
    p.set_node_index(r.pp_rank);
    p.set_first_layer(r.layers.begin);
    p.set_layer_count(r.layers.size());
    p.set_weight_bytes(s.ranks[r.rank].weights);
    p.set_kv_bytes(s.kv(r.rank));
    p.set_buffer_bytes(s.ranks[r.rank].buffers);
  }
}

}  // namespace

std::string stand_in_text(const std::string& device, const std::string& shape) {
  return device == "cpu" ? "cpu stand-in for " + shape : shape;
}

Result<v1::DeploymentPlan> make_deployment_plan(const v1::Recipe& recipe,
                                                const ObjectSelection& objects,
                                                const ModelConfig& config,
                                                const std::vector<TensorInfo>& tensors,
                                                const std::string& provider,
                                                const std::string& device) {
  const NodeShape* shape = find_node_shape(recipe.node_shape());
  if (!shape) {
    return Error{ErrorCode::kInvalidRecipe,
                 fmt::format("$.recipe_node_shape: found {}, expected a known GPU shape",
                             recipe.node_shape()),
                 {}};
  }
  const FileFormat format = objects.format == "gguf" ? FileFormat::kGguf : FileFormat::kSafetensors;
  BP_TRY(check_llama_tensors(config.shape, format, tensors));
  const auto limit =
      static_cast<uint64_t>(static_cast<double>(shape->gpu_memory_bytes()) * kGpuShare);
  const Wanted wanted{config, tensors, format, device == "cpu", limit};
  BP_ASSIGN(const Sizes sizes, fit_layout(wanted, recipe, *shape));
  if (wanted.cpu) BP_TRY(check_host_memory(recipe, sizes));
  v1::DeploymentPlan plan;
  plan.set_provider(provider);
  plan.set_device(device);
  plan.set_stand_in(stand_in_text(device, recipe.node_shape()));
  plan.set_tp_size(sizes.shard.tp_size);
  plan.set_pp_size(sizes.shard.pp_size);
  plan.set_max_context_tokens(sizes.context);
  plan.set_kv_block_tokens(kBlockTokens);
  plan.set_kv_blocks(sizes.blocks);
  fill_nodes(recipe, plan);
  fill_ranks(sizes, plan);
  fill_model(recipe, objects, wanted, *plan.mutable_model());
  for (const v1::PlannedObject& o : objects.objects) *plan.add_objects() = o;
  return plan;
}

}  // namespace bp::plan
