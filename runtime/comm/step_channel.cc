#include "runtime/comm/step_channel.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace bp::rt {
namespace {

constexpr uint64_t kMagic = 0x4250'5354'4550'3031;  // "BPSTEP01"
constexpr int64_t kSliceNs = 100'000'000;           // a wake that was missed costs no more than that

struct ByteRing {
  alignas(128) std::atomic<uint64_t> written;  // bytes ever put in, by the writer
  alignas(128) std::atomic<uint64_t> taken;    // bytes ever taken out, by the reader
  alignas(128) std::byte data[kStepRingBytes];
};

void copy_in(ByteRing& r, uint64_t at, const void* from, size_t n) {
  const size_t i = at % kStepRingBytes, first = std::min(n, kStepRingBytes - i);
  std::memcpy(r.data + i, from, first);
  std::memcpy(r.data, static_cast<const std::byte*>(from) + first, n - first);
}
void copy_out(const ByteRing& r, uint64_t at, void* to, size_t n) {
  const size_t i = at % kStepRingBytes, first = std::min(n, kStepRingBytes - i);
  std::memcpy(to, r.data + i, first);
  std::memcpy(static_cast<std::byte*>(to) + first, r.data, n - first);
}

Error broken(const char* who) {
  return {ErrorCode::kProtocol, std::string(who) + " moved its ring of steps beyond its end", {}};
}

/// A message is its size (8 bytes) and its bytes.
Status put(ByteRing& r, std::string_view message, const char* peer) {
  const uint64_t size = message.size(), need = sizeof size + size;
  if (need > kStepRingBytes / 2) {
    return Error{ErrorCode::kTooLarge,
                 "a message of " + std::to_string(size) + " bytes for " + peer + ", at most " +
                     std::to_string(kStepRingBytes / 2 - sizeof size) + " fit the ring of steps", {}};
  }
  const uint64_t written = r.written.load(std::memory_order_relaxed), used = written - r.taken.load();
  if (used > kStepRingBytes) return broken(peer);
  if (kStepRingBytes - used < need) {
    return Error{ErrorCode::kUnavailable, std::string(peer) + " takes nothing: its ring of steps is full", {}};
  }
  copy_in(r, written, &size, sizeof size);
  copy_in(r, written + sizeof size, message.data(), size);
  r.written.store(written + need);   // seq_cst: the other end's sleep is looked at after it
  return {};
}

Result<bool> take(ByteRing& r, std::string* message, const char* peer) {
  const uint64_t taken = r.taken.load(std::memory_order_relaxed), there = r.written.load() - taken;
  if (there == 0) return false;
  uint64_t size = 0;
  if (there > kStepRingBytes || there < sizeof size) return broken(peer);
  copy_out(r, taken, &size, sizeof size);
  if (size > there - sizeof size) return broken(peer);
  message->resize(size);
  copy_out(r, taken + sizeof size, message->data(), size);
  r.taken.store(taken + sizeof size + size);
  return true;
}

bool is_empty(const ByteRing& r) {
  return r.written.load() == r.taken.load(std::memory_order_relaxed);
}

}  // namespace

struct StepMemory {
  uint64_t magic;
  char nonce[kStepNonceBytes];
  alignas(128) std::atomic<uint32_t> rank_bell;    // futex word of the rank's sleep
  alignas(128) std::atomic<uint32_t> rank_sleeps;
  alignas(128) std::atomic<uint32_t> head_sleeps;
  ByteRing to_rank, to_head;
};

namespace {

Result<StepMemory*> map_memory(int fd) {
  void* p = ::mmap(nullptr, sizeof(StepMemory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return errno_error("map the ring of steps", errno);
  return static_cast<StepMemory*>(p);
}

// Not FUTEX_PRIVATE: the other end is another process.
void wake(std::atomic<uint32_t>& word) {
  word.fetch_add(1);
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

Result<std::unique_ptr<RankStepEnd>> RankStepEnd::make(SpinPolicy spin) {
  if (sodium_init() < 0) return Error{ErrorCode::kInternal, "libsodium does not start", {}};
  std::unique_ptr<RankStepEnd> end(new RankStepEnd);
  end->spin_ = spin;
  end->memory_ = Fd(::memfd_create("bp-steps", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!end->memory_) return errno_error("memfd for steps", errno);
  if (::ftruncate(end->memory_.get(), sizeof(StepMemory)) != 0 ||
      ::fcntl(end->memory_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return errno_error("size the ring of steps", errno);
  }
  int bell[2];
  if (::pipe2(bell, O_CLOEXEC | O_NONBLOCK) != 0) return errno_error("pipe", errno);
  end->bell_read_ = Fd(bell[0]);
  end->bell_write_ = Fd(bell[1]);
  BP_ASSIGN(end->shared_, map_memory(end->memory_.get()));
  end->nonce_.resize(kStepNonceBytes);
  randombytes_buf(end->nonce_.data(), end->nonce_.size());
  std::memcpy(end->shared_->nonce, end->nonce_.data(), kStepNonceBytes);
  end->shared_->magic = kMagic;
  return end;
}

RankStepEnd::~RankStepEnd() {
  if (shared_) ::munmap(shared_, sizeof(StepMemory));
}

Result<bool> RankStepEnd::receive(std::string* message, Deadline deadline) {
  StepMemory& s = *shared_;
  Spinner spinner(spin_);
  for (;;) {
    if (interrupted_.load(std::memory_order_relaxed)) return false;
    BP_ASSIGN(const bool got, take(s.to_rank, message, "the head"));
    if (got) return true;
    const int64_t now = monotonic_ns();
    if (now >= deadline.ns()) return false;
    if (spinner.again()) continue;
    const uint32_t bell = s.rank_bell.load();
    s.rank_sleeps.store(1);
    if (is_empty(s.to_rank) && !interrupted_.load()) {
      const int64_t ns = std::min(deadline.ns() - now, kSliceNs);
      const timespec limit{ns / 1'000'000'000, ns % 1'000'000'000};
      ::syscall(SYS_futex, &s.rank_bell, FUTEX_WAIT, bell, &limit, nullptr, 0);
    }
    s.rank_sleeps.store(0);
  }
}

Status RankStepEnd::send(std::string_view message) {
  BP_TRY(put(shared_->to_head, message, "the head"));
  if (shared_->head_sleeps.exchange(0) != 0) (void)!::write(bell_write_.get(), "", 1);
  return {};
}

void RankStepEnd::interrupt() {
  interrupted_.store(true);
  wake(shared_->rank_bell);
}

namespace {

Result<Fd> open_of(const ProcessId& process, int number, int flags) {
  const std::string path = "/proc/" + std::to_string(process.pid) + "/fd/" + std::to_string(number);
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK));
  const int error = errno;
  // Checked after the open: the pid meant this very process while it was opened.
  if (!fd || !process_alive(process)) {
    return Error{ErrorCode::kNotFound, "open " + path + ": " + (fd ? "the process is gone" : std::strerror(error)), {}};
  }
  return fd;
}

}  // namespace

Result<std::unique_ptr<HeadStepEnd>> HeadStepEnd::open(const ProcessId& rank, int memory_fd, int bell_fd,
                                                       std::string_view nonce) {
  std::unique_ptr<HeadStepEnd> end(new HeadStepEnd);
  BP_ASSIGN(Fd memory, open_of(rank, memory_fd, O_RDWR));
  BP_ASSIGN(end->bell_, open_of(rank, bell_fd, O_RDONLY));
  struct stat st {}, bell {};
  const int seals = ::fcntl(memory.get(), F_GET_SEALS);
  if (::fstat(memory.get(), &st) != 0 || st.st_size != sizeof(StepMemory) || seals < 0 ||
      (seals & F_SEAL_SHRINK) == 0 || ::fstat(end->bell_.get(), &bell) != 0 || !S_ISFIFO(bell.st_mode)) {
    return Error{ErrorCode::kCorruptData,
                 "descriptors " + std::to_string(memory_fd) + " and " + std::to_string(bell_fd) + " of process " +
                     std::to_string(rank.pid) + " are no ring of steps and its bell", {}};
  }
  BP_ASSIGN(end->shared_, map_memory(memory.get()));
  if (end->shared_->magic != kMagic || nonce.size() != kStepNonceBytes ||
      std::memcmp(end->shared_->nonce, nonce.data(), kStepNonceBytes) != 0) {
    return Error{ErrorCode::kCorruptData,
                 "the ring of steps of process " + std::to_string(rank.pid) + " is not the one it told of", {}};
  }
  return end;
}

HeadStepEnd::~HeadStepEnd() {
  if (shared_) ::munmap(shared_, sizeof(StepMemory));
}

Status HeadStepEnd::send(std::string_view message) {
  BP_TRY(put(shared_->to_rank, message, "the rank"));
  if (shared_->rank_sleeps.load() != 0) wake(shared_->rank_bell);
  return {};
}

Result<bool> HeadStepEnd::try_receive(std::string* message) { return take(shared_->to_head, message, "the rank"); }

void HeadStepEnd::arm() { shared_->head_sleeps.store(1); }

void HeadStepEnd::disarm() {
  shared_->head_sleeps.store(0);
  char rings[64];
  while (::read(bell_.get(), rings, sizeof rings) > 0) {
  }
}

}  // namespace bp::rt
