#include <fmt/format.h>

#include "engine/plan/deployment_plan.h"

namespace bp::plan {
namespace {

std::string megabytes(uint64_t bytes) {
  return bytes < 10'000'000'000 ? fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6)
                                : fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

}  // namespace

std::string format_plan(const v1::Recipe& recipe, const v1::DeploymentPlan& plan) {
  const v1::ModelSummary& m = plan.model();
  uint64_t object_bytes = 0;
  for (const v1::PlannedObject& o : plan.objects()) object_bytes += o.size_bytes();
  std::string out;
  out += fmt::format("deployment  {} ({})\n", recipe.canonical_name(), recipe.dialect());
  out += fmt::format("nodes       {} x {}, provider {}\n", plan.nodes_size(), plan.stand_in(),
                     plan.provider());
  out += fmt::format("model       {}", m.name());
  if (m.layers() > 0) {
    out += fmt::format(": {}, {}, {} layers, {} heads, {} KV heads, {:.1f} M parameters, {}\n",
                       m.architecture(), m.weight_type(), m.layers(), m.heads(), m.kv_heads(),
                       static_cast<double>(m.parameter_count()) / 1e6, m.format());
  } else {
    out += " (layers, bytes and objects are known once validate has read its header)\n";
  }
  out += fmt::format("layout      TP {} x PP {} = {} ranks\n", plan.tp_size(), plan.pp_size(),
                     plan.ranks_size());
  if (m.layers() == 0) return out;
  out += fmt::format("context     {} tokens a request, KV pool of {} blocks of {} tokens\n",
                     plan.max_context_tokens(), plan.kv_blocks(), plan.kv_block_tokens());
  out += fmt::format("objects     {} with {}\n", plan.objects_size(), megabytes(object_bytes));
  out += fmt::format("{:>4} {:>4} {:>3} {:>3}  {:<9} {:>11} {:>11} {:>11}\n", "rank", "node", "tp",
                     "pp", "layers", "weights", "KV cache", "buffers");
  for (const v1::RankPlan& r : plan.ranks()) {
    const std::string layers =
        fmt::format("{}-{}", r.first_layer(), r.first_layer() + r.layer_count() - 1);
    out +=
        fmt::format("{:>4} {:>4} {:>3} {:>3}  {:<9} {:>11} {:>11} {:>11}\n", r.rank(),
                    r.node_index(), r.tp_rank(), r.pp_rank(), layers, megabytes(r.weight_bytes()),
                    megabytes(r.kv_bytes()), megabytes(r.buffer_bytes()));
  }
  return out;
}

v1::DeploymentPlan outline_plan(const v1::Recipe& recipe, const std::string& provider,
                                const std::string& device) {
  v1::DeploymentPlan p;
  p.set_provider(provider);
  p.set_device(device);
  p.set_stand_in(stand_in_text(device, recipe.node_shape()));
  p.set_tp_size(recipe.gpus_per_node());
  p.set_pp_size(recipe.node_pool_size());
  p.mutable_model()->set_name(recipe.model_path());
  for (uint32_t n = 0; n < recipe.node_pool_size(); ++n) {
    auto* node = p.add_nodes();
    node->set_index(n);
    node->set_is_head(n == 0);
    node->set_gpus(recipe.gpus_per_node());
    node->set_cpus(recipe.cpus_per_node());
    node->set_memory_bytes(uint64_t{recipe.memory_gbs_per_node()} << 30);
    for (uint32_t t = 0; t < recipe.gpus_per_node(); ++t) {
      auto* rank = p.add_ranks();
      rank->set_rank(n * recipe.gpus_per_node() + t);
      rank->set_tp_rank(t);
      rank->set_pp_rank(n);
      rank->set_node_index(n);
    }
  }
  return p;
}

}  // namespace bp::plan
