#include "engine/node/cache_entry.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <thread>

#include "engine/base/clock.h"
#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/node/safe_tree.h"

namespace bp::node {
namespace {

constexpr size_t kRangesBytesMax = 16 << 20;
constexpr char kDigits[] = "01";

// Newest sign of life of the entry's files, in nanoseconds since the epoch; 0: nothing there.
int64_t last_change_ns(const std::string& dir) {
  int64_t newest = 0;
  for (const char* name : {"/data.part", "/ranges", "/data", "/lock"}) {
    struct stat st {};
    if (::stat((dir + name).c_str(), &st) != 0) continue;
    newest = std::max(newest, st.st_mtim.tv_sec * int64_t{1'000'000'000} + st.st_mtim.tv_nsec);
  }
  return newest;
}

Result<Fd> lock_entry(const std::string& dir, int64_t stall_ms,
                      const std::function<bool()>& cancelled) {
  Fd fd(::open((dir + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return file_error("open " + dir + "/lock", errno, dir);
  int64_t seen = last_change_ns(dir);
  Deadline deadline = Deadline::in_ms(stall_ms);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return errno_error("lock " + dir, errno);
    if (cancelled())
      return Error{ErrorCode::kCancelled, "cancelled while another agent fills " + dir, {}};
    if (const int64_t now = last_change_ns(dir); now != seen) {
      seen = now;
      deadline = Deadline::in_ms(stall_ms);
    }
    if (deadline.passed()) {
      return Error{ErrorCode::kUnavailable,
                   "another agent holds " + dir + " and made no progress for " +
                       std::to_string(stall_ms) + " ms",
                   {}};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return fd;
}

}  // namespace

std::string decode_md5(const std::string& base64) {
  std::string out(16, '\0');
  size_t n = 0;
  const char* end = nullptr;
  const bool ok =
      sodium_base642bin(reinterpret_cast<unsigned char*>(out.data()), out.size(), base64.data(),
                        base64.size(), nullptr, &n, &end, sodium_base64_VARIANT_ORIGINAL) == 0;
  return ok && n == 16 && end == base64.data() + base64.size() ? out : std::string();
}

std::string cache_key(const fetch::ObjectInfo& o, const std::string& store) {
  std::string text = "bp-cache-1";
  auto add = [&text](const std::string& s) { text += std::to_string(s.size()) + ":" + s; };
  add(o.name);
  add(std::to_string(o.size_bytes));
  add(o.etag);
  add(o.md5_base64);
  if (decode_md5(o.md5_base64).empty()) add(store);
  return sha256_hex(text).substr(0, 40);
}

CacheEntry::CacheEntry(std::string dir, Fd lock, uint64_t size_bytes, uint64_t part_bytes)
    : dir_(std::move(dir)),
      lock_(std::move(lock)),
      size_bytes_(size_bytes),
      part_bytes_(part_bytes),
      whole_((size_bytes + part_bytes - 1) / part_bytes, false) {}

Result<std::unique_ptr<CacheEntry>> CacheEntry::open(const std::string& cache_dir,
                                                     const std::string& key, uint64_t size_bytes,
                                                     uint64_t part_bytes,
                                                     const std::function<bool()>& cancelled) {
  const std::string dir = cache_dir + "/" + key;
  BP_TRY(make_dirs(dir));
  BP_ASSIGN(Fd lock, lock_entry(dir, kLockStallMs, cancelled));
  std::unique_ptr<CacheEntry> entry(new CacheEntry(dir, std::move(lock), size_bytes, part_bytes));
  struct stat st {};
  entry->complete_ = ::stat(entry->data_path().c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
                     static_cast<uint64_t>(st.st_size) == size_bytes;
  return entry;
}

uint64_t CacheEntry::part_size(uint64_t part) const {
  return std::min(part_bytes_, size_bytes_ - part_offset(part));
}

bool CacheEntry::is_whole(uint64_t part) const {
  std::lock_guard lock(mutex_);
  return whole_[part];
}

uint64_t CacheEntry::whole_bytes() const {
  std::lock_guard lock(mutex_);
  uint64_t out = 0;
  for (uint64_t i = 0; i < whole_.size(); ++i) out += whole_[i] ? part_size(i) : 0;
  return out;
}

Status CacheEntry::prepare() {
  const std::string path = dir_ + "/data.part";
  part_ = Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!part_) return file_error("create " + path, errno, dir_);
  struct stat st {};
  if (::fstat(part_.get(), &st) != 0) return errno_error("stat " + path, errno);
  if (static_cast<uint64_t>(st.st_size) == size_bytes_) {
    read_ranges();
  } else {
    ::unlink((dir_ + "/ranges").c_str());
    if (::ftruncate(part_.get(), 0) != 0) return errno_error("truncate " + path, errno);
  }
  if (size_bytes_ == 0) return {};
  // The room is taken before the first byte is fetched. Also when resuming: an earlier try may have
  // failed here.
  if (::fallocate(part_.get(), 0, 0, static_cast<off_t>(size_bytes_)) == 0) return {};
  if (errno != EOPNOTSUPP && errno != ENOSYS) {
    return file_error("make room for " + std::to_string(size_bytes_) + " bytes", errno, dir_);
  }
  if (::ftruncate(part_.get(), static_cast<off_t>(size_bytes_)) != 0)
    return file_error("size " + path, errno, dir_);
  return {};
}

// "bp-ranges 1 SIZE PART_SIZE\n0110...": anything else counts as nothing fetched yet.
void CacheEntry::read_ranges() {
  auto text = read_file(dir_ + "/ranges", kRangesBytesMax);
  if (!text.ok()) return;
  const size_t line = text->find('\n');
  const std::string head =
      "bp-ranges 1 " + std::to_string(size_bytes_) + " " + std::to_string(part_bytes_);
  if (line == std::string::npos || text->substr(0, line) != head ||
      text->size() - line - 1 != whole_.size())
    return;
  for (size_t i = 0; i < whole_.size(); ++i) whole_[i] = (*text)[line + 1 + i] == '1';
}

Status CacheEntry::save_ranges() {
  std::string text =
      "bp-ranges 1 " + std::to_string(size_bytes_) + " " + std::to_string(part_bytes_) + "\n";
  for (bool w : whole_) text += kDigits[w];
  auto s = write_file_atomic(dir_ + "/ranges", text);
  if (!s.ok() && s.error().code == ErrorCode::kDiskFull)
    return file_error("write ranges", ENOSPC, dir_);
  return s;
}

Status CacheEntry::write(uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(part_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return file_error("write " + dir_ + "/data.part", errno, dir_);
    offset += static_cast<uint64_t>(n);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<bool> CacheEntry::mark(uint64_t part) {
  if (::fdatasync(part_.get()) != 0) return file_error("fsync " + dir_ + "/data.part", errno, dir_);
  std::lock_guard lock(mutex_);
  whole_[part] = true;
  if (whole_.size() > 1) BP_TRY(save_ranges());
  return std::all_of(whole_.begin(), whole_.end(), [](bool w) { return w; });
}

Result<std::string> CacheEntry::digest(const std::function<bool()>& cancelled) const {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> ctx(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!ctx || EVP_DigestInit_ex(ctx.get(), EVP_md5(), nullptr) != 1) {
    return Error{ErrorCode::kUnsupported, "this host's OpenSSL offers no MD5", {}};
  }
  std::string buffer(1 << 20, '\0');
  for (uint64_t at = 0; at < size_bytes_;) {
    const ssize_t n = ::pread(part_.get(), buffer.data(), buffer.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_error("read " + dir_ + "/data.part", n == 0 ? EIO : errno);
    if (cancelled()) return Error{ErrorCode::kCancelled, "cancelled while verifying", {}};
    EVP_DigestUpdate(ctx.get(), buffer.data(), static_cast<size_t>(n));
    at += static_cast<uint64_t>(n);
  }
  std::string out(16, '\0');
  EVP_DigestFinal_ex(ctx.get(), reinterpret_cast<unsigned char*>(out.data()), nullptr);
  return out;
}

Status CacheEntry::finish(const std::string& md5, const std::function<bool()>& cancelled) {
  const std::string path = dir_ + "/data.part";
  if (!md5.empty()) {
    BP_ASSIGN(std::string found, digest(cancelled));
    if (found != md5) {
      std::lock_guard lock(mutex_);
      whole_.assign(whole_.size(), false);
      ::unlink((dir_ + "/ranges").c_str());
      return Error{ErrorCode::kCorruptData, "its MD5 differs from the one in the listing", {}};
    }
  }
  if (::fchmod(part_.get(), 0440) != 0 || ::fsync(part_.get()) != 0)
    return file_error("fsync " + path, errno, dir_);
  if (::rename(path.c_str(), data_path().c_str()) != 0) return errno_error("rename " + path, errno);
  Fd dir(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir || ::fsync(dir.get()) != 0) return errno_error("fsync " + dir_, errno);
  ::unlink((dir_ + "/ranges").c_str());
  complete_ = true;
  return {};
}

}  // namespace bp::node
