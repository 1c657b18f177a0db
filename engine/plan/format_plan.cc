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

}  // namespace bp::plan
