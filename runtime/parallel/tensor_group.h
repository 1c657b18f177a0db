// TensorGroup: what the ranks of one pipeline stage exchange. Sums are of integers, so that every cut and
// every order gives the same bits. One thread; collective: all ranks of the group call in the same order.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/plan/shard_plan.h"
#include "runtime/comm/communicator.h"

namespace bp::rt {

class TensorGroup {
 public:
  /// `comm` may be null when the plan has one tensor rank. Not owned.
  TensorGroup(const plan::ShardPlan& plan, uint32_t rank, Communicator* comm);
  uint32_t size() const { return size_; }
  uint32_t rank() const { return rank_; }

  /// Sums fixed-point leaf sums over the ranks, in place. `sums` has one element more than the data: this
  /// rank's count of sums that were not numbers, which becomes that of all. kCorruptData names `where`
  /// when it is not 0, on every rank alike; errors of the communicator.
  Status sum_leaves(std::span<int64_t> sums, const std::function<std::string()>& where, Deadline deadline);
  /// Each row of x [rows, cols] is held by one rank and 0 elsewhere (all bits clear): all get all rows.
  Status spread_rows(std::span<float> x, Deadline deadline);
  /// Rank r holds mine [rows, vocab interval of r]; tp_rank 0 gets all [rows, vocab], others nothing.
  Status gather_vocab(std::span<const float> mine, uint32_t rows, std::vector<float>& all, Deadline deadline);

 private:
  uint32_t size_;
  uint32_t rank_;
  uint32_t vocab_;
  std::vector<plan::Interval> intervals_;   // of the vocabulary, by tp_rank
  Communicator* comm_;
  std::vector<int64_t> words_;
  std::vector<float> gathered_;
};

}  // namespace bp::rt
