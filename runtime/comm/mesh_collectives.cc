// What each collective sends, takes and adds.
#include <algorithm>
#include <cstring>

#include "runtime/comm/mesh_state.h"

namespace bp::rt {
namespace {

/// Adds like the hardware, whatever the order: it wraps.
void add_to(std::span<int64_t> sum, const int64_t* part) {
  for (size_t i = 0; i < sum.size(); ++i) {
    sum[i] = static_cast<int64_t>(static_cast<uint64_t>(sum[i]) + static_cast<uint64_t>(part[i]));
  }
}

}  // namespace

Status MeshCommunicator::all_gather_v(std::span<const std::byte> mine, std::span<const size_t> counts,
                                      std::span<std::byte> out, Deadline deadline) {
  begin(Op::kAllGather);
  size_t total = 0;
  for (size_t c : counts) total += c;
  if (counts.size() != size() || counts[rank()] != mine.size() || total != out.size()) {
    return context({ErrorCode::kInvalidArgument, "counts, mine and out disagree", {}});
  }
  size_t at = 0;
  for (uint32_t r = 0; r < size(); ++r) {
    auto part = out.subspan(at, counts[r]);
    at += counts[r];
    if (r == rank()) {
      if (!mine.empty() && part.data() != mine.data()) std::memmove(part.data(), mine.data(), mine.size());
    } else {
      add_send(r, mine);
      add_recv(r, part);
    }
  }
  return run(deadline);
}

Status MeshCommunicator::all_reduce_i64(std::span<int64_t> data, Deadline deadline) {
  begin(Op::kAllReduce);
  if (o_.exchange) {
    if (dead_) return context(Error{dead_->code, "the group is dead since: " + dead_->message, {}});
    const size_t piece = o_.exchange->buffer_bytes() / sizeof(int64_t);
    size_t at = 0;
    do {   // a sum of nothing is a round too: all ranks meet
      BP_TRY(finish(reduce_shared(data.subspan(at, std::min(piece, data.size() - at)), deadline)));
      at += piece;
    } while (at < data.size());
    return {};
  }
  const uint32_t n = size();
  const bool one_shot = n == 2 || data.size_bytes() <= kOneShotBytes;
  // Two phases: rank r sums slice r of all, then hands it out.
  auto begin_of = [&](uint32_t r) { return one_shot ? 0 : data.size() * r / n; };
  auto slice = [&](uint32_t r) {
    return one_shot ? data : data.subspan(begin_of(r), data.size() * (r + 1) / n - begin_of(r));
  };
  const auto mine = slice(rank());
  scratch_.resize(mine.size() * (n - 1));
  size_t at = 0;
  for (uint32_t r = 0; r < n; ++r) {
    if (r == rank()) continue;
    add_send(r, std::as_bytes(slice(r)));
    add_recv(r, std::as_writable_bytes(std::span(scratch_).subspan(at, mine.size())));
    at += mine.size();
  }
  BP_TRY(run(deadline));
  for (size_t part = 0; part < scratch_.size(); part += mine.size()) {
    if (mine.empty()) break;
    add_to(mine, scratch_.data() + part);
  }
  if (one_shot) return {};
  out_.clear();
  in_.clear();
  for (uint32_t r = 0; r < n; ++r) {
    if (r == rank()) continue;
    add_send(r, std::as_bytes(mine));
    add_recv(r, std::as_writable_bytes(slice(r)));
  }
  return run(deadline);
}

Status MeshCommunicator::reduce_shared(std::span<int64_t> data, Deadline deadline) {
  if (aborted_.load(std::memory_order_relaxed)) return Error{ErrorCode::kStaleEpoch, "aborted", {}};
  Exchange& exchange = *o_.exchange;
  ++round_;
  std::memcpy(exchange.mine(round_), data.data(), data.size_bytes());
  exchange.publish(round_, data.size_bytes());
  for (uint32_t r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    const std::byte* part = nullptr;
    uint64_t size_bytes = 0;
    part = exchange.of(r, round_, &size_bytes);
    if (!part) BP_TRY(wait_for_part(r, &part, &size_bytes, deadline));
    if (size_bytes != data.size_bytes()) {
      return Error{ErrorCode::kProtocol,
                   o_.labels[r] + " gave " + std::to_string(size_bytes) + " bytes to a sum of " +
                       std::to_string(data.size_bytes()) + " bytes",
                   {}};
    }
    add_to(data, reinterpret_cast<const int64_t*>(part));
  }
  return {};
}

Status MeshCommunicator::wait_for_part(uint32_t peer, const std::byte** part, uint64_t* size_bytes,
                                       Deadline deadline) {
  constexpr int64_t kSliceNs = 20'000'000;   // how often a silent peer is checked for death
  constexpr int64_t kPartNs = 15'000;        // ranks that run side by side are nearer to each other than this
  const auto look = [&] { return (*part = o_.exchange->of(peer, round_, size_bytes)) != nullptr; };
  const int64_t begin_ns = monotonic_ns();
  for (Spinner spinner(o_.spin); spinner.again();) {
    if (!look()) continue;
    // On one core the yield in which it came took as long as the peer's work.
    if (monotonic_ns() - begin_ns > kPartNs) o_.exchange->part_from(peer);
    return {};
  }
  for (;;) {
    if (aborted_.load()) return Error{ErrorCode::kStaleEpoch, "aborted", {}};
    const int64_t now = monotonic_ns();
    if (now >= deadline.ns()) {
      return Error{ErrorCode::kDeadlineExceeded,
                   "waited for " + o_.labels[peer] + ", silent for " + std::to_string((now - begin_ns) / 1'000'000) +
                       " ms", {}};
    }
    o_.doorbell->wait([&] { return aborted_.load() || look(); }, std::min(deadline.ns() - now, kSliceNs));
    if (*part || look()) {
      o_.exchange->part_from(peer);
      return {};
    }
    Status alive = o_.links[peer]->check_peer();
    // What it laid down before it ended counts.
    if (!alive.ok()) return look() ? Status() : alive;
  }
}

Status MeshCommunicator::broadcast(std::span<std::byte> data, uint32_t root, Deadline deadline) {
  begin(Op::kBroadcast);
  BP_CHECK(root < size());
  if (root == rank()) {
    for (uint32_t r = 0; r < size(); ++r) if (r != root) add_send(r, data);
  } else {
    add_recv(root, data);
  }
  return run(deadline);
}

Status MeshCommunicator::send(std::span<const std::byte> data, uint32_t to, Deadline deadline) {
  begin(Op::kPoint);
  add_send(to, data);
  return run(deadline);
}

Status MeshCommunicator::recv(std::span<std::byte> data, uint32_t from, Deadline deadline) {
  begin(Op::kPoint);
  add_recv(from, data);
  return run(deadline);
}

Status MeshCommunicator::barrier(Deadline deadline) {
  begin(Op::kBarrier);
  for (uint32_t r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    add_send(r, {});
    add_recv(r, {});
  }
  return run(deadline);
}

}  // namespace bp::rt
