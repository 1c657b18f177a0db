// Workflow: an immutable definition with its graph, shared by all runs that pin it (a run holds a
// pointer and no copy), and Workflows, where pinned definitions are found by content hash.
// Thread: a Workflow may be read from any; Workflows belongs to one (the conductor's).
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bp/v1/journal.pb.h"
#include "engine/base/result.h"

namespace bp::core {

inline constexpr size_t kStagesMax = 256;
inline constexpr uint32_t kMapInstancesMax = 10'000;  // of one mapped stage

using StageIndex = uint16_t;  // place in the definition

/// A definition that can be run: names unique, `after` known, no cycle, every kind of stage
/// complete and free of contradictions, bindings refer to what comes before, policies sane.
/// kInvalidArgument names the first fault and its place.
Status check_workflow(const v1::WorkflowDefinition& workflow);

class Workflow {
 public:
  using Ptr = std::shared_ptr<const Workflow>;
  /// Does not check: see check_workflow. The graph must have no cycle.
  explicit Workflow(v1::WorkflowDefinition definition);

  const v1::WorkflowDefinition& definition() const { return definition_; }
  const std::string& name() const { return definition_.name(); }
  /// Deterministic bytes of the definition, and their BLAKE2b-256 as hex: the blob that pins it.
  std::string bytes() const;
  const std::string& hash() const { return hash_; }

  size_t size() const { return nodes_.size(); }
  const v1::StageDefinition& stage(StageIndex i) const { return *nodes_[i].definition; }
  std::optional<StageIndex> find(std::string_view stage) const;
  /// Stages named in `after`; those that name it; all that come later, or earlier, by any path.
  const std::vector<StageIndex>& before(StageIndex i) const { return nodes_[i].before; }
  const std::vector<StageIndex>& next(StageIndex i) const { return nodes_[i].next; }
  const std::vector<StageIndex>& later(StageIndex i) const { return nodes_[i].later; }
  const std::vector<StageIndex>& earlier(StageIndex i) const { return nodes_[i].earlier; }
  bool is_later(StageIndex than, StageIndex i) const;

  bool shared(StageIndex i) const { return nodes_[i].shared; }
  bool has_destroy(StageIndex i) const { return nodes_[i].has_destroy; }
  bool mapped(StageIndex i) const { return stage(i).has_map_over(); }
  bool has_plugin(StageIndex i) const { return !stage(i).plugin().empty(); }
  bool any_keeps_running() const { return any_keeps_running_; }

 private:
  struct Node {
    const v1::StageDefinition* definition;
    std::vector<StageIndex> before, next, later, earlier;
    bool shared, has_destroy;
  };
  v1::WorkflowDefinition definition_;
  std::string hash_;
  std::vector<Node> nodes_;
  std::unordered_map<std::string_view, StageIndex> by_name_;  // views into definition_
  bool any_keeps_running_ = false;
};

struct Pins;

/// What runs share: workflows and pins.
class Workflows {
 public:
  /// Fetches the canonical bytes of a definition that is not in memory (the journal's blobs).
  using Load = std::function<Result<std::string>(const std::string& hash)>;
  explicit Workflows(Load load = {}) : load_(std::move(load)) {}

  /// The workflow of a definition; the same pointer for the same bytes. Checks it when `check`:
  /// what an older core accepted may always be replayed.
  Result<Workflow::Ptr> add(const v1::WorkflowDefinition& definition, bool check = true);
  /// kNotFound when nobody has it.
  Result<Workflow::Ptr> find(const std::string& hash);
  /// One object for equal pins.
  std::shared_ptr<const Pins> share(Pins pins);
  /// Forgets what no run holds.
  void drop_unused();

 private:
  Load load_;
  std::unordered_map<std::string, Workflow::Ptr> by_hash_;
  std::unordered_map<std::string, std::shared_ptr<const Pins>> pins_;
};

}  // namespace bp::core
