// Reads what the plan needs to know of a model out of object stores: its header only, in windows. How bytes
// are had is the caller's: this room has no sockets.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engine/plan/deployment_plan.h"

namespace bp::plan {

/// Where objects are read from. Both are called from the thread of read_model only.
struct ObjectSource {
  /// Bytes [offset, offset + size_bytes); at most limits::kRangeBytes * 4 at once.
  std::function<Result<std::string>(const v1::PlannedObject&, uint64_t offset, uint64_t size_bytes)> read;
  /// The store for people, "127.0.0.1:9000/bucket": stands in errors.
  std::function<std::string(const v1::PlannedObject&)> describe;
};

struct ModelHeader {
  ModelConfig config;
  std::vector<TensorInfo> tensors;
};

/// Errors of the source and of the parsers (kCorruptData, kUnsupported, kTooLarge), with the object's name.
Result<ModelHeader> read_model(const ObjectSource& source, const ObjectSelection& selection);

}  // namespace bp::plan
