#include "engine/node/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "engine/base/log.h"
#include "engine/node/convert.h"

namespace bp::node {
namespace {

constexpr uint64_t kSegmentBytesMax = uint64_t{1} << 44;
constexpr off_t kConfigBytesMax = 64 << 20;

Result<Fd> make_memfd(const std::string& name) {
  Fd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return errno_error("memfd " + name, errno);
  return fd;
}

// The same open file of another process, as an open file of ours.
Result<Fd> open_of_process(const ProcessId& process, int number, int access = O_RDWR) {
  const std::string path = "/proc/" + std::to_string(process.pid) + "/fd/" + std::to_string(number);
  Fd fd(::open(path.c_str(), access | O_CLOEXEC | O_NONBLOCK));
  const int error = errno;
  // Checked after the open: the pid meant this very process while it was opened.
  if (!process_alive(process))
    return Error{ErrorCode::kNotFound, "process " + std::to_string(process.pid) + " is gone", {}};
  if (!fd) return errno_error("open " + path, error);
  return fd;
}

}  // namespace

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

Result<Fd> make_sealed_config(std::string_view bytes) {
  BP_ASSIGN(Fd fd, make_memfd("bp-config"));
  for (size_t done = 0; done < bytes.size();) {
    ssize_t n =
        ::pwrite(fd.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error("write config", errno);
    done += static_cast<size_t>(n);
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) !=
      0) {
    return errno_error("seal config", errno);
  }
  return fd;
}

Result<std::string> config_of(const ProcessId& process) {
  BP_ASSIGN(Fd fd, open_of_process(process, kConfigFd, O_RDONLY));
  struct stat st {};
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (::fstat(fd.get(), &st) != 0 || seals < 0 || (seals & F_SEAL_WRITE) == 0 ||
      st.st_size > kConfigBytesMax) {
    return Error{ErrorCode::kCorruptData,
                 "fd 3 of process " + std::to_string(process.pid) + " is no sealed config",
                 {}};
  }
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  const ssize_t n = ::pread(fd.get(), bytes.data(), bytes.size(), 0);
  if (n != st.st_size) return errno_error("read the config of process " + std::to_string(process.pid), errno);
  return bytes;
}

Lease::Lease(Lease&& o) noexcept : fd_(std::move(o.fd_)), page_(std::exchange(o.page_, nullptr)) {}
Lease& Lease::operator=(Lease&& o) noexcept {
  std::swap(fd_, o.fd_);
  std::swap(page_, o.page_);
  return *this;
}
Lease::~Lease() {
  if (page_) ::munmap(page_, LeasePage::kSize);
}

Result<Lease> Lease::map(Fd fd) {
  void* at = ::mmap(nullptr, LeasePage::kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return errno_error("map lease page", errno);
  Lease out;
  out.fd_ = std::move(fd);
  out.page_ = static_cast<LeasePage*>(at);
  return out;
}

Result<Lease> Lease::make(const std::string& process_key) {
  BP_ASSIGN(Fd fd, make_memfd("bp-lease-" + process_key));
  if (::ftruncate(fd.get(), LeasePage::kSize) != 0) return errno_error("size lease page", errno);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return errno_error("seal lease page", errno);
  BP_ASSIGN(Lease lease, map(std::move(fd)));
  new (lease.page_) LeasePage{};
  lease.page_->magic.store(LeasePage::kMagic);
  return lease;
}

Result<Lease> Lease::reopen(const ProcessId& process) {
  BP_ASSIGN(Fd fd, open_of_process(process, kLeaseFd));
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0 || static_cast<uint64_t>(st.st_size) != LeasePage::kSize ||
      ::fcntl(fd.get(), F_GET_SEALS) < 0) {
    return Error{ErrorCode::kCorruptData,
                 "fd 4 of process " + std::to_string(process.pid) + " is no lease page",
                 {}};
  }
  BP_ASSIGN(Lease lease, map(std::move(fd)));
  if (lease.page_->magic.load() != LeasePage::kMagic) {
    return Error{ErrorCode::kCorruptData,
                 "the lease page of process " + std::to_string(process.pid) + " has no magic",
                 {}};
  }
  return lease;
}

int64_t Lease::deadline_ns() const { return page_->deadline_ns.load(std::memory_order_acquire); }

Result<int> Segments::make(const v1::Segment& wanted, Epoch epoch) {
  BP_ASSIGN(Fd fd, make_memfd("bp-" + wanted.name()));
  if (wanted.size_bytes() > 0 &&
      ::ftruncate(fd.get(), static_cast<off_t>(wanted.size_bytes())) != 0) {
    return errno_error(
        "size segment " + wanted.name() + " to " + std::to_string(wanted.size_bytes()) + " bytes",
        errno);
  }
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return errno_error("stat segment " + wanted.name(), errno);
  v1::KnownSegment* known = store_.find_segment(wanted.name());
  if (!known) known = store_.state().add_segments();
  known->set_name(wanted.name());
  known->set_device(st.st_dev);
  known->set_inode(st.st_ino);
  known->set_drop_with_epoch(wanted.drop_with_epoch());
  to_proto(epoch, known->mutable_epoch());
  return (fds_[wanted.name()] = std::move(fd)).get();
}

Result<int> Segments::get(const v1::Segment& wanted, Epoch epoch) {
  if (!is_plain_name(wanted.name())) {
    return Error{
        ErrorCode::kInvalidArgument,
        "segment name \"" + wanted.name().substr(0, 80) + "\": expected [a-z0-9-], at most 64",
        {}};
  }
  if (wanted.size_bytes() > kSegmentBytesMax) {
    return Error{
        ErrorCode::kTooLarge,
        "segment " + wanted.name() + " of " + std::to_string(wanted.size_bytes()) + " bytes",
        {}};
  }
  auto it = fds_.find(wanted.name());
  const v1::KnownSegment* known = store_.find_segment(wanted.name());
  if (it == fds_.end() || !known) return make(wanted, epoch);
  if (wanted.drop_with_epoch() && from_proto(known->epoch()) < epoch) return make(wanted, epoch);
  if (wanted.size_bytes() > 0) {
    struct stat st {};
    if (::fstat(it->second.get(), &st) != 0)
      return errno_error("stat segment " + wanted.name(), errno);
    if (static_cast<uint64_t>(st.st_size) != wanted.size_bytes()) return make(wanted, epoch);
  }
  return it->second.get();
}

void Segments::reopen() {
  for (const auto& process : store_.state().processes()) {
    const ProcessId id = from_proto(process.status().identity());
    for (int i = 0; i < process.segments_size(); ++i) {
      const std::string& name = process.segments(i);
      const v1::KnownSegment* known = store_.find_segment(name);
      if (!known || fds_.count(name)) continue;
      auto fd = open_of_process(id, kFirstSegmentFd + i);
      struct stat st {};
      // A process of an older generation may hold an older segment of the same name.
      if (!fd.ok() || ::fstat(fd->get(), &st) != 0 || st.st_ino != known->inode() ||
          st.st_dev != known->device())
        continue;
      fds_[name] = std::move(*fd);
    }
  }
  auto* all = store_.state().mutable_segments();
  for (int i = all->size() - 1; i >= 0; --i) {
    if (fds_.count(all->Get(i).name())) continue;
    BP_LOG(info, "segment.lost", "name={} because no living process holds it", all->Get(i).name());
    all->DeleteSubrange(i, 1);
  }
}

void Segments::clear() {
  fds_.clear();
  store_.state().clear_segments();
}

}  // namespace bp::node
