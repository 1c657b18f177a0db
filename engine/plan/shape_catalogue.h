// What a node of each OCI GPU shape has. Source: Oracle's page of compute shapes. Pure.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bp::plan {

struct NodeShape {
  std::string_view name;       // "VM.GPU.A10.2"
  std::string_view gpu_model;  // "A10"
  bool nvidia = true;
  uint32_t gpus = 0;
  uint32_t gpu_memory_gbs = 0;  // of all GPUs of a node together, in GB (1e9)
  uint32_t ocpus = 0;
  uint32_t memory_gbs = 0;

  uint64_t gpu_memory_bytes() const { return uint64_t{gpu_memory_gbs} * 1'000'000'000 / gpus; }
};

std::span<const NodeShape> node_shapes();
/// Null when unknown.
const NodeShape* find_node_shape(std::string_view name);
/// The known shape with the nearest name.
std::string nearest_node_shape(std::string_view name);

}  // namespace bp::plan
