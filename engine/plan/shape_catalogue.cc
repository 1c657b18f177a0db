#include "engine/plan/shape_catalogue.h"

#include "engine/plan/nearest.h"

namespace bp::plan {
namespace {

constexpr NodeShape kShapes[] = {
    {"VM.GPU.A10.1", "A10", true, 1, 24, 15, 240},
    {"VM.GPU.A10.2", "A10", true, 2, 48, 30, 480},
    {"BM.GPU.A10.4", "A10", true, 4, 96, 64, 1024},
    {"BM.GPU4.8", "A100-40", true, 8, 320, 64, 2048},
    {"BM.GPU.B4.8", "A100-40", true, 8, 320, 128, 2048},
    {"BM.GPU.A100-v2.8", "A100-80", true, 8, 640, 128, 2048},
    {"BM.GPU.L40S.4", "L40S", true, 4, 192, 112, 1024},
    {"BM.GPU.H100.8", "H100", true, 8, 640, 112, 2048},
    {"BM.GPU.H200.8", "H200", true, 8, 1128, 112, 3072},
    {"BM.GPU.B200.8", "B200", true, 8, 1440, 128, 4096},
    {"BM.GPU.GB200.4", "GB200", true, 4, 768, 144, 960},
    {"BM.GPU.MI300X.8", "MI300X", false, 8, 1536, 112, 2048},
};

}  // namespace

std::span<const NodeShape> node_shapes() { return kShapes; }

const NodeShape* find_node_shape(std::string_view name) {
  for (const NodeShape& s : kShapes) {
    if (s.name == name) return &s;
  }
  return nullptr;
}

std::string nearest_node_shape(std::string_view name) {
  std::vector<std::string_view> names;
  for (const NodeShape& s : kShapes) names.push_back(s.name);
  return std::string(nearest_name(name, names, SIZE_MAX));
}

}  // namespace bp::plan
