#include "runtime/parallel/tensor_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace bp::rt {

TensorGroup::TensorGroup(const plan::ShardPlan& plan, uint32_t rank, Communicator* comm)
    : size_(plan.tp_size), rank_(plan.ranks[rank].tp_rank), vocab_(plan.model.vocab), comm_(comm) {
  BP_CHECK(size_ == 1 || (comm && comm->size() == size_ && comm->rank() == rank_));
  for (uint32_t tp = 0; tp < size_; ++tp)
    intervals_.push_back(plan.ranks[plan.ranks[rank].pp_rank * size_ + tp].vocab);
}

Status TensorGroup::sum_leaves(std::span<int64_t> sums, const std::function<std::string()>& where,
                               Deadline deadline) {
  if (size_ > 1) {
    Status summed = comm_->all_reduce_i64(sums, deadline);
    if (!summed.ok()) return Error(summed.error()).with_context(where());
  }
  if (sums.back() != 0)
    return Error{ErrorCode::kCorruptData,
                 fmt::format("{}: {} sums are not finite or beyond 2^20; weights or activations are broken", where(),
                             sums.back()), {}};
  return {};
}

Status TensorGroup::spread_rows(std::span<float> x, Deadline deadline) {
  if (size_ == 1) return {};
  // Two floats a word: adding zero bits is the identity, so the sum is exact for any number.
  words_.assign((x.size() + 1) / 2, 0);
  std::memcpy(words_.data(), x.data(), x.size_bytes());
  BP_TRY(comm_->all_reduce_i64(words_, deadline));
  std::memcpy(x.data(), words_.data(), x.size_bytes());
  return {};
}

Status TensorGroup::gather_vocab(std::span<const float> mine, uint32_t rows, std::vector<float>& all,
                                 Deadline deadline) {
  if (size_ == 1) {
    all.assign(mine.begin(), mine.end());
    return {};
  }
  std::vector<size_t> counts;
  for (const plan::Interval& v : intervals_) counts.push_back(size_t(rows) * v.size() * sizeof(float));
  gathered_.resize(size_t(rows) * vocab_);
  BP_TRY(comm_->all_gather_v(std::as_bytes(mine), counts, std::as_writable_bytes(std::span(gathered_)), deadline));
  all.clear();
  if (rank_ != 0) return {};
  all.resize(gathered_.size());
  const float* from = gathered_.data();
  for (const plan::Interval& v : intervals_)
    for (uint32_t r = 0; r < rows; ++r, from += v.size())
      std::copy(from, from + v.size(), all.begin() + static_cast<ptrdiff_t>(size_t(r) * vocab_ + v.begin));
  return {};
}

}  // namespace bp::rt
