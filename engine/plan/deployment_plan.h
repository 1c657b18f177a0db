// From a valid recipe and a model's header to the whole plan: layout, bytes per rank, objects. Pure.
#pragma once
#include <string>
#include <vector>

#include "bp/v1/recipe.pb.h"
#include "engine/base/result.h"
#include "engine/plan/model_header.h"

namespace bp::plan {

/// One object of a store, as a listing shows it.
struct StoredObject {
  uint32_t storage_index = 0;
  std::string name;
  uint64_t size_bytes = 0;
  std::string etag;
  std::string md5_base64;
};

/// Applies include/exclude (see ObjectStorage.include) and maps names below mount locations. Problems: an
/// include that matches nothing, a name that is absolute or holds "..", two objects on one path, more than
/// the volume or the declared disks hold, no model at model_path (what was found beside it).
struct ObjectSelection {
  std::vector<v1::PlannedObject> objects;
  std::string model_file;   // path of the GGUF file, or of the folder with config.json
  std::string format;       // "gguf" or "safetensors"
  std::vector<v1::Problem> problems;
};
ObjectSelection select_objects(const v1::Recipe& recipe, const std::vector<StoredObject>& listing);

/// kDoesNotFit: the layout does not divide the model, or a rank needs more than the shape's GPU memory
/// (the message names the nearest layout that fits).
Result<v1::DeploymentPlan> make_deployment_plan(const v1::Recipe& recipe, const ObjectSelection& objects,
                                                const ModelConfig& config,
                                                const std::vector<TensorInfo>& tensors,
                                                const std::string& provider, const std::string& device);

/// What can be known without looking at the model: nodes, ranks and what the recipe declares.
v1::DeploymentPlan outline_plan(const v1::Recipe& recipe, const std::string& provider,
                                const std::string& device);

/// The plan as a table for people.
std::string format_plan(const v1::Recipe& recipe, const v1::DeploymentPlan& plan);

/// "cpu stand-in for VM.GPU.A10.2", or the shape itself when the device is a GPU.
std::string stand_in_text(const std::string& device, const std::string& shape);

}  // namespace bp::plan
