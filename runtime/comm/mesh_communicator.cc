#include "runtime/comm/mesh_communicator.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/comm/mesh_state.h"

namespace bp::rt {

void MeshCommunicator::begin(Op op) {
  op_ = op;
  ++operation_;
  begin_ns_ = monotonic_ns();
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
  return text + " for " + std::to_string((monotonic_ns() - begin_ns_) / 1'000'000) + " ms";
}

void MeshCommunicator::abort() {
  aborted_ = true;
  uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
  if (o_.doorbell) o_.doorbell->ring_self();
}

Result<std::unique_ptr<Communicator>> make_mesh_communicator(MeshOptions options) {
  BP_CHECK(options.links.size() == options.labels.size() && options.rank < options.links.size());
  Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return errno_error("eventfd", errno);
  return std::unique_ptr<Communicator>(new MeshCommunicator(std::move(options), std::move(wake)));
}

}  // namespace bp::rt
