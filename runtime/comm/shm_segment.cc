#include "runtime/comm/shm_segment.h"

#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <cstring>

namespace bp::rt {
namespace {

constexpr uint64_t kMagic = 0x4250'434f'4d4d'3031;  // "BPCOMM01"
constexpr size_t kPage = 4096;

struct SegmentHeader {
  std::atomic<uint64_t> magic;       // 0: nobody was here; 1: being written; kMagic
  uint64_t size_bytes;
  uint64_t incarnation, counter;     // epoch
  uint64_t generation;
  uint64_t ranks, ring_bytes;
};
static_assert(sizeof(SegmentHeader) <= kPage);

enum SlotState : uint32_t { kEmpty = 0, kTaking = 1, kAttached = 2, kLeft = 3 };

// Not FUTEX_PRIVATE: the waiters are other processes.
void futex_wait(std::atomic<uint32_t>* word, uint32_t expected, int64_t wait_ns) {
  timespec ts{wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
  ::syscall(SYS_futex, word, FUTEX_WAIT, expected, &ts, nullptr, 0);
}
void futex_wake(std::atomic<uint32_t>* word) {
  ::syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

struct alignas(128) ShmSegment::RankSlot {
  std::atomic<uint32_t> state;       // SlotState
  std::atomic<uint32_t> bell;        // futex word
  std::atomic<uint32_t> sleeping;
  int32_t pid;                       // written before state becomes kAttached
  uint64_t start_ticks;
};

struct alignas(128) ShmSegment::RingControl {
  std::atomic<uint64_t> written;     // bytes ever put in, by the writer
  alignas(64) std::atomic<uint64_t> taken;  // bytes ever taken out, by the reader
};

struct alignas(128) ShmSegment::RoundSlot {
  std::atomic<uint64_t> round;       // stored last
  uint64_t size_bytes[2];            // of the buffers of even and odd rounds
  std::atomic<int32_t> cpu;          // where it published the last round
};

namespace {

size_t buffers_offset(uint32_t ranks) {
  size_t n = kPage + size_t{256} * ranks + size_t{128} * ranks * ranks;
  return (n + kPage - 1) / kPage * kPage;
}

size_t rings_offset(uint32_t ranks) { return buffers_offset(ranks) + size_t{2} * ranks * kExchangeBytes; }

}  // namespace

uint64_t shm_segment_bytes_min(uint32_t ranks) {
  return rings_offset(ranks) + uint64_t{ranks} * ranks * kRingBytesMin;
}

ShmSegment::RankSlot& ShmSegment::slot(uint32_t rank) {
  return reinterpret_cast<RankSlot*>(base_ + kPage)[rank];
}
ShmSegment::RingControl& ShmSegment::control(uint32_t from, uint32_t to) {
  static_assert(sizeof(RankSlot) == 128 && sizeof(RingControl) == 128);
  auto* controls = reinterpret_cast<RingControl*>(base_ + kPage + size_t{128} * ranks_);
  return controls[size_t{from} * ranks_ + to];
}
ShmSegment::RoundSlot& ShmSegment::round_slot(uint32_t rank) {
  static_assert(sizeof(RoundSlot) == 128);
  auto* slots = reinterpret_cast<RoundSlot*>(base_ + kPage + size_t{128} * ranks_ * (1 + ranks_));
  return slots[rank];
}
std::byte* ShmSegment::buffer(uint32_t rank, uint64_t round) {
  return base_ + buffers_at_ + (size_t{rank} * 2 + (round & 1)) * kExchangeBytes;
}

void ShmSegment::publish(uint64_t round, uint64_t size_bytes) {
  RoundSlot& s = round_slot(rank_);
  s.size_bytes[round & 1] = size_bytes;
  s.cpu.store(::sched_getcpu(), std::memory_order_relaxed);
  s.round.store(round);   // seq_cst, as all that ring() goes with
  for (uint32_t r = 0; r < ranks_; ++r) {
    if (r != rank_) ring(r);
  }
}

const std::byte* ShmSegment::of(uint32_t rank, uint64_t round, uint64_t* size_bytes) {
  RoundSlot& s = round_slot(rank);
  if (s.round.load() < round) return nullptr;
  *size_bytes = s.size_bytes[round & 1];
  return buffer(rank, round);
}

// Two ranks that wait for each other in turn look to the kernel like one busy thread: it leaves them on one core for
// seconds. The mask is narrowed only for the move.
void ShmSegment::part_from(uint32_t rank) {
  constexpr int64_t kRestNs = 20'000'000;
  const int here = ::sched_getcpu();
  const int64_t now = monotonic_ns();
  cpu_set_t all, others;
  if (rank > rank_ || here < 0 || now - moved_ns_ < kRestNs ||
      round_slot(rank).cpu.load(std::memory_order_relaxed) != here ||
      ::sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < 2) {
    return;
  }
  moved_ns_ = now;
  others = all;
  CPU_CLR(here, &others);
  if (::sched_setaffinity(0, sizeof others, &others) == 0) (void)::sched_setaffinity(0, sizeof all, &all);
}

std::byte* ShmSegment::ring_data(uint32_t from, uint32_t to) {
  return base_ + rings_at_ + (size_t{from} * ranks_ + to) * ring_bytes_;
}

Result<std::shared_ptr<ShmSegment>> ShmSegment::attach(int fd, const Who& who, const std::vector<uint32_t>& members,
                                                       Deadline deadline) {
  const uint32_t ranks = who.ranks;
  BP_CHECK(who.rank < ranks);
  struct stat st {};
  if (::fstat(fd, &st) != 0) return errno_error("size of the comm segment", errno);
  const auto size = static_cast<uint64_t>(st.st_size);
  if (size < shm_segment_bytes_min(ranks)) {
    return Error{ErrorCode::kDoesNotFit,
                 "the comm segment has " + std::to_string(size) + " bytes; " + std::to_string(ranks) +
                     " ranks need at least " + std::to_string(shm_segment_bytes_min(ranks)),
                 {}};
  }
  std::shared_ptr<ShmSegment> s(new ShmSegment);
  s->rank_ = who.rank;
  s->ranks_ = ranks;
  s->buffers_at_ = buffers_offset(ranks);
  s->rings_at_ = rings_offset(ranks);
  s->ring_bytes_ = std::min<uint64_t>(
      std::bit_floor((size - s->rings_at_) / (uint64_t{ranks} * ranks)), kRingBytesMax);
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return errno_error("map the comm segment", errno);
  s->base_ = static_cast<std::byte*>(p);
  s->size_bytes_ = size;
  s->peer_pidfds_.resize(ranks);
  BP_TRY(s->open_header(who, deadline));
  BP_TRY(s->take_slot());
  BP_TRY(s->wait_for(who, members, deadline));
  return s;
}

namespace {

std::string generation_text(Epoch epoch, uint64_t generation) {
  return "epoch " + epoch.to_string() + " generation " + std::to_string(generation);
}

}  // namespace

// The first rank's part. Whoever waits for this generation looks at nothing before the magic is there again.
void ShmSegment::lay_out(const Who& who) {
  auto* h = reinterpret_cast<SegmentHeader*>(base_);
  h->magic.store(1);
  std::memset(base_ + kPage, 0, buffers_at_ - kPage);
  h->size_bytes = size_bytes_;
  h->incarnation = who.epoch.incarnation;
  h->counter = who.epoch.counter;
  h->generation = who.generation;
  h->ranks = ranks_;
  h->ring_bytes = ring_bytes_;
  h->magic.store(kMagic, std::memory_order_release);
}

Status ShmSegment::open_header(const Who& who, Deadline deadline) {
  auto* h = reinterpret_cast<SegmentHeader*>(base_);
  const auto ours = std::pair(who.epoch, who.generation);
  for (;;) {
    const uint64_t magic = h->magic.load(std::memory_order_acquire);
    if (magic > 1 && magic != kMagic) {
      return Error{ErrorCode::kCorruptData, "the comm segment has no header of ours", {}};
    }
    std::pair<Epoch, uint64_t> found{{h->incarnation, h->counter}, h->generation};
    if (magic == kMagic && found == ours) break;
    if (magic == kMagic && (found > ours || deadline.passed())) {
      return Error{ErrorCode::kStaleEpoch,
                   "the comm segment belongs to " + generation_text(found.first, found.second) + ", this rank to " +
                       generation_text(who.epoch, who.generation),
                   {}};
    }
    if (who.lays_out) {
      lay_out(who);
      break;
    }
    if (deadline.passed()) {
      return Error{ErrorCode::kDeadlineExceeded, "waited for the first rank of the node to lay out the segment", {}};
    }
    if (who.cancelled && who.cancelled()) return Error{ErrorCode::kCancelled, "told to leave the group", {}};
    ::usleep(200);
  }
  if (h->size_bytes != size_bytes_ || h->ranks != ranks_ || h->ring_bytes != ring_bytes_) {
    return Error{ErrorCode::kCorruptData,
                 "the comm segment was laid out for " + std::to_string(h->ranks) + " ranks in " +
                     std::to_string(h->size_bytes) + " bytes, expected " + std::to_string(ranks_) +
                     " in " + std::to_string(size_bytes_),
                 {}};
  }
  return {};
}

Status ShmSegment::take_slot() {
  RankSlot& s = slot(rank_);
  uint32_t state = kEmpty;
  if (!s.state.compare_exchange_strong(state, kTaking)) {
    return Error{ErrorCode::kConflict,
                 "place " + std::to_string(rank_) + " of the comm segment is taken already (by process " +
                     std::to_string(s.pid) + "); a new rank needs a new epoch",
                 {}};
  }
  BP_ASSIGN(ProcessId me, process_identity(::getpid()));
  s.pid = me.pid;
  s.start_ticks = me.start_ticks;
  s.state.store(kAttached);
  attached_ = true;
  for (uint32_t r = 0; r < ranks_; ++r) ring(r);
  return {};
}

Status ShmSegment::wait_for(const Who& who, const std::vector<uint32_t>& members, Deadline deadline) {
  for (uint32_t r : members) {
    if (r == rank_) continue;
    BP_CHECK(r < ranks_);
    auto there = [&] { return slot(r).state.load() >= kAttached; };
    while (!there()) {
      if (deadline.passed()) {
        return Error{ErrorCode::kDeadlineExceeded,
                     "waited for rank " + std::to_string(r) + " of the group to attach to the comm segment",
                     {}};
      }
      if (who.cancelled && who.cancelled()) return Error{ErrorCode::kCancelled, "told to leave the group", {}};
      wait(there, std::min<int64_t>(deadline.left_ms() + 1, 10) * 1'000'000);
    }
    const RankSlot& s = slot(r);
    if (s.pid == ::getpid()) continue;  // ranks as threads
    auto watch = process_watch({s.pid, s.start_ticks, boot_id()});
    if (watch.ok()) peer_pidfds_[r] = std::move(*watch);
    else slot(r).state.store(kLeft);    // it is gone already; whoever waits for it finds out
  }
  return {};
}

ShmSegment::~ShmSegment() {
  if (!base_) return;
  if (attached_) {
    slot(rank_).state.store(kLeft);
    for (uint32_t r = 0; r < ranks_; ++r) ring(r);
  }
  ::munmap(base_, size_bytes_);
}

void ShmSegment::ring(uint32_t rank) {
  RankSlot& s = slot(rank);
  // All stores and loads of this handshake are seq_cst: either we see `sleeping`, or the sleeper sees
  // what we moved before ringing.
  if (s.sleeping.load() == 0) return;
  s.bell.fetch_add(1, std::memory_order_release);
  futex_wake(&s.bell);
}

void ShmSegment::wait(const std::function<bool()>& ready, int64_t wait_ns) {
  RankSlot& s = slot(rank_);
  uint32_t bell = s.bell.load(std::memory_order_acquire);
  s.sleeping.store(1);
  if (!ready() && wait_ns > 0) futex_wait(&s.bell, bell, wait_ns);
  s.sleeping.store(0);
}

Status ShmSegment::check_peer(uint32_t peer, const std::string& label) {
  if (slot(peer).state.load() == kLeft) {
    return Error{ErrorCode::kPeerLost, label + " has left the group", {}};
  }
  if (!peer_pidfds_[peer]) return {};
  pollfd p{peer_pidfds_[peer].get(), POLLIN, 0};
  if (::poll(&p, 1, 0) > 0) {
    return Error{ErrorCode::kPeerLost, label + " (process " + std::to_string(slot(peer).pid) + ") has ended", {}};
  }
  return {};
}

namespace {

class ShmLink final : public Link {
 public:
  ShmLink(ShmSegment& segment, ShmSegment::RingControl& out, std::byte* out_data,
          ShmSegment::RingControl& in, const std::byte* in_data, uint32_t peer, std::string label)
      : segment_(segment), out_(out), out_data_(out_data), in_(in), in_data_(in_data), peer_(peer),
        label_(std::move(label)), mask_(segment.ring_bytes() - 1) {}

  Result<size_t> try_write(std::span<const std::byte> data, bool more) override;
  Result<bool> try_flush() override {
    if (unrung_) segment_.ring(peer_);
    unrung_ = false;
    return true;
  }
  Result<size_t> try_read(std::span<std::byte> data) override;
  Status check_peer() override { return segment_.check_peer(peer_, label_); }

 private:
  Error corrupt() const {
    return {ErrorCode::kProtocol, label_ + " moved its ring beyond its end", {}};
  }
  ShmSegment& segment_;
  ShmSegment::RingControl& out_;
  std::byte* out_data_;
  ShmSegment::RingControl& in_;
  const std::byte* in_data_;
  uint32_t peer_;
  std::string label_;
  size_t mask_;
  uint64_t written_ = 0, taken_ = 0;  // ours; the other two are read from the segment
  bool unrung_ = false;
};

Result<size_t> ShmLink::try_write(std::span<const std::byte> data, bool more) {
  const size_t capacity = mask_ + 1;
  uint64_t used = written_ - out_.taken.load();
  if (used > capacity) return corrupt();
  const size_t n = std::min(data.size(), capacity - static_cast<size_t>(used));
  if (n == 0) {
    if (unrung_) BP_TRY(try_flush());
    return size_t{0};
  }
  const size_t at = written_ & mask_;
  const size_t first = std::min(n, capacity - at);
  std::memcpy(out_data_ + at, data.data(), first);
  std::memcpy(out_data_, data.data() + first, n - first);
  written_ += n;
  out_.written.store(written_);
  unrung_ = true;
  if (!more) BP_TRY(try_flush());
  return n;
}

Result<size_t> ShmLink::try_read(std::span<std::byte> data) {
  const size_t capacity = mask_ + 1;
  uint64_t there = in_.written.load() - taken_;
  if (there > capacity) return corrupt();
  const size_t n = std::min(data.size(), static_cast<size_t>(there));
  if (n == 0) return size_t{0};
  const size_t at = taken_ & mask_;
  const size_t first = std::min(n, capacity - at);
  std::memcpy(data.data(), in_data_ + at, first);
  std::memcpy(data.data() + first, in_data_, n - first);
  taken_ += n;
  in_.taken.store(taken_);
  segment_.ring(peer_);
  return n;
}

}  // namespace

std::unique_ptr<Link> ShmSegment::link(uint32_t peer, std::string label) {
  BP_CHECK(peer < ranks_ && peer != rank_);
  return std::make_unique<ShmLink>(*this, control(rank_, peer), ring_data(rank_, peer),
                                   control(peer, rank_), ring_data(peer, rank_), peer, std::move(label));
}

}  // namespace bp::rt
