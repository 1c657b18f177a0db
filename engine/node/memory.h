// Memory that the agent owns for its processes: sealed configs, lease pages, named segments. All
// memfds. Agent's thread only.
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "bp/v1/node.pb.h"
#include "engine/base/epoch.h"
#include "engine/base/fd.h"
#include "engine/base/lease_page.h"
#include "engine/base/process.h"
#include "engine/base/result.h"
#include "engine/node/state_store.h"

namespace bp::node {

inline constexpr int kConfigFd = 3;
inline constexpr int kLeaseFd = 4;
inline constexpr int kFirstSegmentFd = 5;

/// A memfd holding `bytes`, sealed against any change, its offset at 0.
Result<Fd> make_sealed_config(std::string_view bytes);

/// The config that a living process was started with. kNotFound when it is gone, kCorruptData when its fd 3
/// is no sealed config.
Result<std::string> config_of(const ProcessId& process);

/// One lease page, mapped here and in its process. Unmapped on destruction.
class Lease {
 public:
  Lease() = default;
  /// A new page without a lease.
  static Result<Lease> make(const std::string& process_key);
  /// The page that a living process holds as fd 4. kCorruptData when it is none.
  static Result<Lease> reopen(const ProcessId& process);
  Lease(Lease&& o) noexcept;
  Lease& operator=(Lease&& o) noexcept;
  ~Lease();
  explicit operator bool() const { return page_ != nullptr; }
  int fd() const { return fd_.get(); }
  /// CLOCK_MONOTONIC nanoseconds; 0: none was given yet.
  int64_t deadline_ns() const;

 private:
  static Result<Lease> map(Fd fd);
  Fd fd_;
  LeasePage* page_ = nullptr;
};

/// Named segments. Their descriptors are held here, so they outlive every process that maps them.
class Segments {
 public:
  explicit Segments(StateStore& store) : store_(store) {}
  /// Finds or makes the segment and notes it in the store's state (the caller saves). One with
  /// drop_with_epoch is made anew when `epoch` is newer than the one it was made under; a kept one
  /// is made anew when another size is asked for. kInvalidArgument for a bad name, kIo, kDiskFull.
  Result<int> get(const v1::Segment& wanted, Epoch epoch);
  /// Takes back what living processes of a predecessor hold; forgets what nobody holds.
  void reopen();
  /// Lets go of all.
  void clear();
  size_t count() const { return fds_.size(); }

 private:
  Result<int> make(const v1::Segment& wanted, Epoch epoch);
  StateStore& store_;
  std::map<std::string, Fd> fds_;
};

/// 1 to 64 characters of [a-z0-9-], as process keys and segment names are.
bool is_plain_name(std::string_view name);

}  // namespace bp::node
