// The inside of RankGroup: its state, and what it does about each message and each lapse of time.
// Engine thread; other threads read under `mutex`.
#pragma once
#include <algorithm>
#include <mutex>

#include "engine/base/fd.h"
#include "engine/base/secret.h"
#include "runtime/comm/rank_protocol.h"
#include "runtime/head/group_members.h"
#include "runtime/head/rank_group.h"

namespace bp::rt {

inline void set_epoch(v1::Epoch* out, Epoch e) {
  out->set_incarnation(e.incarnation);
  out->set_counter(e.counter);
}

struct RankGroup::Impl {
  enum class Phase { kIdle, kForming, kLoading, kServing, kBroken };

  RankGroupOptions options;
  std::unique_ptr<bus::Router> router;
  Fd wake;
  GroupMembers members;
  // Engine thread writes under `mutex`; other threads read under it.
  mutable std::mutex mutex;
  Phase phase = Phase::kIdle;
  Error error;                     // in kBroken; an empty message after shutdown()
  uint32_t result_rank = 0;        // tp_rank 0 of the last pipeline stage
  Secret data_key;
  uint64_t sequence = 0, lease_number = 0;
  int64_t next_beat_ns = 0;
  uint64_t steps_sent = 0, steps_done = 0;
  std::vector<int64_t> sent_ns;    // of the steps under way, oldest first
  std::vector<RankGroupEvent> events;

  explicit Impl(RankGroupOptions o) : options(std::move(o)), members(options.build_id) {}

  v1::RankMessage message() {
    v1::RankMessage m;
    set_epoch(m.mutable_group_epoch(), members.epoch());
    m.set_sequence(++sequence);
    return m;
  }
  int64_t beat_ns() const { return options.lease_ms * 1'000'000 / kBeatsPerLease; }
  bool alive() const { return phase != Phase::kIdle && phase != Phase::kBroken; }

  void receive(bus::Incoming in);
  void handle(JoinedRank& member, uint32_t rank, v1::RankMessage& m);
  void hello(const std::string& routing_id, const v1::RankHello& h);
  void ready(uint32_t rank, const v1::RankReady& r);
  void result(uint32_t rank, v1::StepResult& r);
  void failure(uint32_t rank, const v1::RankFailure& f);
  void welcome_all();
  void send_welcome(uint32_t rank);
  void tell_end(const std::string& routing_id, Epoch epoch, const std::string& reason);
  void end_members(const std::string& reason);
  void beat();
  void check_lost(int64_t now);
  void broken(Error why);
  int64_t next_due() const;
};

}  // namespace bp::rt
