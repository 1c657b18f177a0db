#include "engine/plan/recipe_rules.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "engine/base/limits.h"
#include "engine/plan/shape_catalogue.h"

namespace bp::plan {
namespace {

const char* kParams = "$.recipe_raycluster_params";

void check_equal(Problems& problems, const char* what, uint32_t head, uint32_t worker) {
  if (head == 0 || worker == 0 || head == worker) return;
  add_problem(problems, fmt::format("{}.worker_node_{}", kParams, what), fmt::format("{}", worker),
              fmt::format("{}, as head_node_{}", head, what),
              "Give head and worker the same: all nodes are alike");
}

void check_gpus(const v1::Recipe& r, const RayclusterNumbers& n, const NodeShape& shape,
                Problems& problems) {
  if (!shape.nvidia) {
    add_problem(problems, "$.recipe_node_shape", shape.name, "a shape with NVIDIA GPUs",
                "Choose one such as BM.GPU.H100.8");
  }
  if (r.gpus_per_node() > shape.gpus) {
    add_problem(problems, "$.recipe_nvidia_gpu_count", fmt::format("{}", r.gpus_per_node()),
                fmt::format("1 to {}, the GPUs of {}", shape.gpus, shape.name),
                "Use fewer GPUs per node or a larger shape");
  }
  const struct {
    const char* field;
    uint32_t value;
  } gpus[] = {{"head_node_num_gpus", n.head_gpus}, {"worker_node_num_gpus", n.worker_gpus}};
  for (const auto& g : gpus) {
    if (g.value > shape.gpus) {
      add_problem(problems, fmt::format("{}.{}", kParams, g.field), fmt::format("{}", g.value),
                  fmt::format("1 to {}, the GPUs of {}", shape.gpus, shape.name),
                  "Use fewer GPUs per node or a larger shape");
    } else if (g.value != 0 && r.gpus_per_node() != 0 && g.value != r.gpus_per_node()) {
      add_problem(problems, fmt::format("{}.{}", kParams, g.field), fmt::format("{}", g.value),
                  fmt::format("{}, as recipe_nvidia_gpu_count", r.gpus_per_node()),
                  "Give both the GPUs that each node uses");
    }
  }
}

void check_shape(const v1::Recipe& r, const RayclusterNumbers& n, Problems& problems) {
  if (r.node_shape().empty()) return;
  const NodeShape* shape = find_node_shape(r.node_shape());
  if (!shape) {
    const bool cpu_only = r.node_shape().find(".GPU") == std::string::npos;
    add_problem(problems, "$.recipe_node_shape", r.node_shape(),
                cpu_only ? "a shape with GPUs" : "a known GPU shape",
                fmt::format("Did you mean {}?", nearest_node_shape(r.node_shape())));
    return;
  }
  check_gpus(r, n, *shape, problems);
  const struct {
    const char* field;
    uint32_t value, max;
    const char* unit;
  } sizes[] = {
      {"head_node_num_cpus", n.head_cpus, shape->ocpus, "OCPUs"},
      {"worker_node_num_cpus", n.worker_cpus, shape->ocpus, "OCPUs"},
      {"head_node_cpu_mem_in_gbs", n.head_memory_gbs, shape->memory_gbs, "GB of memory"},
      {"worker_node_cpu_mem_in_gbs", n.worker_memory_gbs, shape->memory_gbs, "GB of memory"}};
  for (const auto& s : sizes) {
    if (s.value <= s.max) continue;
    add_problem(problems, fmt::format("{}.{}", kParams, s.field), fmt::format("{}", s.value),
                fmt::format("at most {}, the {} of {}", s.max, s.unit, shape->name),
                "Ask for less, or for a larger shape");
  }
}

void check_pool(const v1::Recipe& r, const RayclusterNumbers& n, Problems& problems) {
  if (r.node_pool_size() == 0 || !n.workers || r.node_pool_size() == *n.workers + 1) return;
  add_problem(problems, "$.recipe_node_pool_size", fmt::format("{}", r.node_pool_size()),
              fmt::format("{}, which is num_worker_nodes + 1 for the head", *n.workers + 1),
              fmt::format("Set it to {}, or num_worker_nodes to {}", *n.workers + 1,
                          r.node_pool_size() - 1));
}

void check_ports(const v1::Recipe& r, Problems& problems) {
  const struct {
    std::string path;
    uint32_t port;
  } ports[] = {{"$.recipe_container_port", r.container_port()},
               {fmt::format("{}.redis_port", kParams), r.redis_port()},
               {fmt::format("{}.dashboard_port", kParams), r.dashboard_port()},
               {fmt::format("{}.metrics_export_port", kParams), r.metrics_export_port()},
               {fmt::format("{}.rayclient_server_port", kParams), r.rayclient_server_port()}};
  for (size_t i = 0; i < std::size(ports); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (ports[i].port == 0 || ports[i].port != ports[j].port) continue;
      add_problem(problems, ports[i].path, fmt::format("{}", ports[i].port),
                  fmt::format("a port other than that of {}", ports[j].path),
                  "Choose another port: all are served by the head");
    }
  }
}

void check_disk(const v1::Recipe& r, Problems& problems) {
  if (r.boot_volume_gbs() != 0 && r.ephemeral_storage_gbs() > r.boot_volume_gbs()) {
    add_problem(problems, "$.recipe_ephemeral_storage_size",
                fmt::format("{}", r.ephemeral_storage_gbs()),
                fmt::format("at most {}, the boot volume", r.boot_volume_gbs()),
                "Raise recipe_node_boot_volume_size_in_gbs or ask for less ephemeral storage");
  }
}

void check_mounts(const v1::Recipe& r, Problems& problems) {
  for (int i = 0; i < r.object_storage_size(); ++i) {
    for (int j = 0; j < i; ++j) {
      const std::string& mount = r.object_storage(i).mount_location();
      if (mount.empty() || mount != r.object_storage(j).mount_location()) continue;
      add_problem(problems, fmt::format("$.input_object_storage[{}].mount_location", i), mount,
                  fmt::format("a path other than that of input_object_storage[{}]", j),
                  "Mount each volume at a path of its own");
    }
  }
}

/// An include may name the model's folder, something in it, or a folder around it.
bool may_include(const v1::ObjectStorage& s, std::string_view model_below_mount) {
  if (s.include().empty() || model_below_mount.empty()) return true;
  return std::any_of(s.include().begin(), s.include().end(), [&](const std::string& entry) {
    return entry.find_first_of("*?") != std::string::npos ||
           entry_matches(entry, model_below_mount) || lies_below(entry, model_below_mount);
  });
}

void check_model_path(const v1::Recipe& r, Problems& problems) {
  const std::string& model = r.model_path();
  if (model.empty()) return;
  const v1::ObjectStorage* best = nullptr;
  for (const v1::ObjectStorage& s : r.object_storage()) {
    if (s.mount_location().empty()) return;
    const bool deeper = !best || s.mount_location().size() > best->mount_location().size();
    if (lies_below(model, s.mount_location()) && deeper) best = &s;
  }
  if (!best) {
    if (r.object_storage().empty()) return;
    add_problem(problems, fmt::format("{}.model_path_in_container", kParams), model,
                fmt::format("a path below a mount_location, such as {}",
                            r.object_storage(0).mount_location()),
                "Let the path start with the mount_location that holds the model");
    return;
  }
  const size_t cut = best->mount_location().size();
  const std::string_view below = std::string_view(model).substr(std::min(model.size(), cut + 1));
  if (!may_include(*best, below)) {
    add_problem(problems, fmt::format("{}.model_path_in_container", kParams), model,
                "a path that an include of its object storage brings",
                fmt::format("Add \"{}\" to include, or correct the path", below));
  }
}

}  // namespace

std::string clean_absolute_path(std::string_view path) {
  if (path.empty() || path[0] != '/') return {};
  std::string out;
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string_view part = path.substr(at, end - at);
    if (part == "." || part == "..") return {};
    if (!part.empty()) out += "/" + std::string(part);
    at = end + 1;
  }
  return out;
}

bool lies_below(std::string_view path, std::string_view folder) {
  if (folder.empty() || path.substr(0, folder.size()) != folder) return false;
  return path.size() == folder.size() || folder.back() == '/' || path[folder.size()] == '/';
}

bool entry_matches(std::string_view entry, std::string_view name) {
  if (entry.find_first_of("*?") != std::string_view::npos) {
    return fnmatch(std::string(entry).c_str(), std::string(name).c_str(), 0) == 0;
  }
  return lies_below(name, entry);
}

void check_raycluster_rules(const v1::Recipe& r, const RayclusterNumbers& n, Problems& problems) {
  check_equal(problems, "num_cpus", n.head_cpus, n.worker_cpus);
  check_equal(problems, "num_gpus", n.head_gpus, n.worker_gpus);
  check_equal(problems, "cpu_mem_in_gbs", n.head_memory_gbs, n.worker_memory_gbs);
  check_pool(r, n, problems);
  check_shape(r, n, problems);
  check_ports(r, problems);
  check_disk(r, problems);
  check_mounts(r, problems);
  check_model_path(r, problems);
}

}  // namespace bp::plan
