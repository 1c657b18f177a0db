#include "runtime/comm/mesh_communicator.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/comm/mesh_message.h"

namespace bp::rt {
namespace {

/// Adds like the hardware, whatever the order: it wraps.
void add_to(std::span<int64_t> sum, const int64_t* part) {
  for (size_t i = 0; i < sum.size(); ++i) {
    sum[i] = static_cast<int64_t>(static_cast<uint64_t>(sum[i]) + static_cast<uint64_t>(part[i]));
  }
}

class MeshCommunicator final : public Communicator {
 public:
  MeshCommunicator(MeshOptions o, Fd wake) : o_(std::move(o)), wake_(std::move(wake)) {
    sent_.resize(size());
    received_.resize(size());
    for (auto& link : o_.links) has_fds_ |= link && link->poll_fd() >= 0;
  }
  uint32_t rank() const override { return o_.rank; }
  uint32_t size() const override { return static_cast<uint32_t>(o_.links.size()); }
  Epoch epoch() const override { return o_.epoch; }
  std::string describe() const override {
    return o_.name + ": " + o_.kind + ", " + std::to_string(size()) + " ranks";
  }

  Status all_reduce_i64(std::span<int64_t> data, Deadline deadline) override;
  Status all_gather_v(std::span<const std::byte> mine, std::span<const size_t> counts,
                      std::span<std::byte> out, Deadline deadline) override;
  Status broadcast(std::span<std::byte> data, uint32_t root, Deadline deadline) override;
  Status send(std::span<const std::byte> data, uint32_t to, Deadline deadline) override;
  Status recv(std::span<std::byte> data, uint32_t from, Deadline deadline) override;
  Status barrier(Deadline deadline) override;
  void abort() override;

 private:
  void begin(Op op);
  void add_send(uint32_t to, std::span<const std::byte> data);
  void add_recv(uint32_t from, std::span<std::byte> data);
  Status run(Deadline deadline);
  Status transfer(Deadline deadline);
  Result<bool> progress();
  Result<bool> progress_out(Outgoing& t);
  Result<bool> progress_in(Incoming& t);
  bool finished() const;
  Status wait_for_progress(Deadline deadline, bool* progressed);
  Status poll_links(int64_t wait_ns);
  Status check_peers();
  Status reduce_shared(std::span<int64_t> data, Deadline deadline);
  Status wait_for_part(uint32_t peer, const std::byte** part, uint64_t* size_bytes, Deadline deadline);
  Status finish(Status status);
  std::string waited_for() const;
  Error context(Error error) const;

  MeshOptions o_;
  Fd wake_;                             // readable after abort()
  bool has_fds_ = false;
  std::atomic<bool> aborted_{false};
  std::optional<Error> dead_;           // the first error
  std::vector<uint32_t> sent_, received_;  // messages so far, by peer
  uint64_t operation_ = 0;              // operations so far
  Op op_ = Op::kBarrier;
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  std::vector<int64_t> scratch_;
  uint64_t round_ = 0;                  // of the exchange
};

void MeshCommunicator::begin(Op op) {
  op_ = op;
  ++operation_;
  out_.clear();
  in_.clear();
}

void MeshCommunicator::add_send(uint32_t to, std::span<const std::byte> data) {
  BP_CHECK(to < size() && to != rank());
  out_.push_back({to, {static_cast<uint32_t>(op_), ++sent_[to], data.size()}, data});
}

void MeshCommunicator::add_recv(uint32_t from, std::span<std::byte> data) {
  BP_CHECK(from < size() && from != rank());
  in_.push_back({from, {static_cast<uint32_t>(op_), ++received_[from], data.size()}, {}, data});
}

Error MeshCommunicator::context(Error error) const {
  return std::move(error).with_context(o_.name + " " + op_name(static_cast<uint32_t>(op_)) + " " +
                                       std::to_string(operation_) + " of epoch " + o_.epoch.to_string() +
                                       " on " + o_.labels[rank()]);
}

Status MeshCommunicator::run(Deadline deadline) {
  if (dead_) return context(Error{dead_->code, "the group is dead since: " + dead_->message, {}});
  return finish(transfer(deadline));
}

Status MeshCommunicator::finish(Status status) {
  if (status.ok()) return status;
  // An abort is the cause of whatever failed after it.
  Error error = aborted_ ? Error{ErrorCode::kStaleEpoch, "aborted", {}} : status.error();
  dead_ = error;
  return context(std::move(error));
}

Status MeshCommunicator::transfer(Deadline deadline) {
  for (;;) {
    if (aborted_.load(std::memory_order_relaxed)) return Error{ErrorCode::kStaleEpoch, "aborted", {}};
    BP_ASSIGN(bool moved, progress());
    if (finished()) return {};
    if (moved) continue;
    Spinner spinner(o_.spin);
    while (!moved && spinner.again()) {
      BP_ASSIGN(moved, progress());
    }
    while (!moved) {
      if (aborted_.load()) return Error{ErrorCode::kStaleEpoch, "aborted", {}};
      if (deadline.passed()) return Error{ErrorCode::kDeadlineExceeded, waited_for(), {}};
      BP_TRY(wait_for_progress(deadline, &moved));
    }
    if (finished()) return {};
  }
}

bool MeshCommunicator::finished() const {
  for (const auto& t : out_) if (!t.finished) return false;
  for (const auto& t : in_) if (!t.finished) return false;
  return true;
}

Result<bool> MeshCommunicator::progress() {
  bool moved = false;
  for (auto& t : out_) {
    if (t.finished) continue;
    BP_ASSIGN(bool m, progress_out(t));
    moved |= m;
  }
  for (auto& t : in_) {
    if (t.finished) continue;
    BP_ASSIGN(bool m, progress_in(t));
    moved |= m;
  }
  return moved;
}

Result<bool> MeshCommunicator::progress_out(Outgoing& t) {
  Link& link = *o_.links[t.to];
  bool moved = false;
  while (t.done < sizeof(Header) + t.data.size()) {
    bool in_header = t.done < sizeof(Header);
    auto rest = in_header ? std::as_bytes(std::span(&t.header, 1)).subspan(t.done)
                          : t.data.subspan(t.done - sizeof(Header));
    BP_ASSIGN(size_t n, link.try_write(rest, in_header && !t.data.empty()));
    if (n == 0) return moved;
    t.done += n;
    moved = true;
  }
  BP_ASSIGN(t.finished, link.try_flush());
  return moved || t.finished;
}

Result<bool> MeshCommunicator::progress_in(Incoming& t) {
  Link& link = *o_.links[t.from];
  bool moved = false;
  while (t.done < sizeof(Header)) {
    auto rest = std::as_writable_bytes(std::span(&t.header, 1)).subspan(t.done);
    BP_ASSIGN(size_t n, link.try_read(rest));
    if (n == 0) return moved;
    t.done += n;
    moved = true;
  }
  if (std::memcmp(&t.header, &t.expected, sizeof(Header)) != 0) {
    return Error{ErrorCode::kProtocol,
                 o_.labels[t.from] + " sent " + header_text(t.header) + " where " +
                     header_text(t.expected) + " was expected",
                 {}};
  }
  while (t.done < sizeof(Header) + t.data.size()) {
    BP_ASSIGN(size_t n, link.try_read(t.data.subspan(t.done - sizeof(Header))));
    if (n == 0) return moved;
    t.done += n;
    moved = true;
  }
  t.finished = true;
  return true;
}

// Sleeps until a link may have moved; looks after dead peers and the deadline once in a while.
Status MeshCommunicator::wait_for_progress(Deadline deadline, bool* progressed) {
  constexpr int64_t kSliceNs = 20'000'000;       // how often a silent peer is checked for death
  constexpr int64_t kMixedSliceNs = 500'000;     // futex and poll cannot be waited for together
  int64_t left_ns = std::max<int64_t>(deadline.ns() - monotonic_ns(), 0);
  if (!o_.doorbell) {
    BP_TRY(poll_links(std::min(left_ns, kSliceNs)));
  } else {
    std::optional<Error> error;
    auto ready = [&] {
      if (aborted_.load()) return true;
      auto moved = progress();
      if (!moved.ok()) error = moved.error();
      *progressed = moved.ok() && *moved;
      return error || *progressed;
    };
    o_.doorbell->wait(ready, std::min(left_ns, has_fds_ ? kMixedSliceNs : kSliceNs));
    if (error) return *error;
    if (*progressed) return {};
  }
  BP_ASSIGN(*progressed, progress());
  if (!*progressed) BP_TRY(check_peers());
  return {};
}

Status MeshCommunicator::poll_links(int64_t wait_ns) {
  std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}};
  auto want = [&](uint32_t peer, short events) {
    int fd = o_.links[peer]->poll_fd();
    for (auto& p : fds) {
      if (p.fd == fd) { p.events = static_cast<short>(p.events | events); return; }
    }
    fds.push_back({fd, events, 0});
  };
  for (const auto& t : out_) if (!t.finished) want(t.to, POLLOUT);
  for (const auto& t : in_) if (!t.finished) want(t.from, POLLIN);
  timespec ts{wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
  if (::ppoll(fds.data(), fds.size(), &ts, nullptr) < 0 && errno != EINTR) {
    return errno_error("poll", errno);
  }
  return {};
}

Status MeshCommunicator::check_peers() {
  // What a peer wrote before it ended counts: look once more after seeing it dead.
  Status bad;
  for (const auto& t : in_) if (!t.finished && bad.ok()) bad = o_.links[t.from]->check_peer();
  for (const auto& t : out_) if (!t.finished && bad.ok()) bad = o_.links[t.to]->check_peer();
  if (bad.ok()) return {};
  BP_ASSIGN(bool moved, progress());
  if (moved) return {};
  return bad;
}

std::string MeshCommunicator::waited_for() const {
  std::string text = "waited for";
  auto add = [&](uint32_t peer, const char* verb, size_t done, size_t all) {
    text += std::string(text.size() > 10 ? "," : "") + " " + o_.labels[peer] + " to " + verb + " (" +
            std::to_string(done) + " of " + std::to_string(all) + " bytes done)";
  };
  for (const auto& t : in_) if (!t.finished) add(t.from, "send", t.done, sizeof(Header) + t.data.size());
  for (const auto& t : out_) if (!t.finished) add(t.to, "take", t.done, sizeof(Header) + t.data.size());
  return text;
}

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
  const auto look = [&] { return (*part = o_.exchange->of(peer, round_, size_bytes)) != nullptr; };
  const int64_t begin_ns = monotonic_ns();
  for (Spinner spinner(o_.spin); spinner.again();) {
    if (look()) return {};
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
    if (*part || look()) return {};
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

void MeshCommunicator::abort() {
  aborted_ = true;
  uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
  if (o_.doorbell) o_.doorbell->ring_self();
}

}  // namespace

Result<std::unique_ptr<Communicator>> make_mesh_communicator(MeshOptions options) {
  BP_CHECK(options.links.size() == options.labels.size() && options.rank < options.links.size());
  Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return errno_error("eventfd", errno);
  return std::unique_ptr<Communicator>(new MeshCommunicator(std::move(options), std::move(wake)));
}

}  // namespace bp::rt
