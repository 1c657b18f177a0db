// RankLease: the rank's right to step, shown to the node agent through the lease page.
// renew() and note_ack() from the main thread; valid() from any.
#pragma once
#include <cstdint>
#include <map>

#include "bp/v1/rank.pb.h"
#include "engine/base/lease_page.h"
#include "engine/base/result.h"

namespace bp::rt {

class RankLease {
 public:
  /// Maps the page of `fd` (LeasePage::kSize bytes). kInvalidArgument names what is wrong with it.
  static Result<RankLease> open(int fd);
  RankLease(RankLease&& o) noexcept : page_(std::exchange(o.page_, nullptr)), acks_(std::move(o.acks_)) {}
  ~RankLease();

  /// Takes a renewal at `now_ns`: the lease runs from when the acked ack was sent, so that a renewal that
  /// waited in a queue (a stopped process, a slow network) gives no more time than was meant.
  void renew(const v1::Lease& lease, int64_t now_ns);
  /// Remembers when the ack of `number` was sent.
  void note_ack(uint64_t number, int64_t now_ns);
  bool held() const { return deadline_ns() != 0; }      // ever
  bool valid(int64_t now_ns) const { return now_ns < deadline_ns(); }
  int64_t deadline_ns() const { return page_->deadline_ns.load(); }

 private:
  explicit RankLease(LeasePage* page) : page_(page) {}
  LeasePage* page_;
  std::map<uint64_t, int64_t> acks_;   // the last few
};

}  // namespace bp::rt
