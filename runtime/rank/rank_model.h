// RankModel: what bp-rank needs to know and do about its model. The real one stands on open_weights and
// ModelRunner; tests of the program's own behaviour bring a small one.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "bp/v1/rank.pb.h"
#include "engine/base/result.h"

namespace bp::rt {

class ModelRunner;
struct RunnerMemory;
struct RunnerComms;

class RankModel {
 public:
  virtual ~RankModel() = default;
  /// Known before anything is loaded.
  virtual const std::string& model_key() const = 0;
  virtual std::string numerics_class() const = 0;
  virtual uint64_t weights_bytes() const = 0;
  virtual uint64_t kv_bytes() const = 0;
  /// As ModelRunner::load. Stream's thread.
  virtual Result<std::unique_ptr<ModelRunner>> load(RunnerMemory memory, RunnerComms comms,
                                                    const std::function<void(uint64_t, uint64_t)>& progress,
                                                    bool* reused) = 0;
};

/// Opens config.model_path and cuts it as config.plan says. kConflict: the plan's layers are not those
/// that this build deals to the rank; errors of open_weights and make_shard_plan.
Result<std::unique_ptr<RankModel>> open_rank_model(const v1::RankConfig& config);

}  // namespace bp::rt
