// Reads what the plan needs to know of a model out of object stores, by ranged GETs of its header only.
#pragma once
#include <memory>
#include <vector>

#include "engine/fetch/object_store.h"
#include "engine/plan/deployment_plan.h"

namespace bp::stages {

struct ModelHeader {
  plan::ModelConfig config;
  std::vector<plan::TensorInfo> tensors;
};

/// `stores` by storage index. Errors of the store and of the parsers, with the object's name.
Result<ModelHeader> read_model(const std::vector<std::unique_ptr<fetch::ObjectStore>>& stores,
                               const plan::ObjectSelection& selection, Deadline deadline);

}  // namespace bp::stages
