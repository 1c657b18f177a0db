// The inside of RankGroup: its state, and what it does about each message and each lapse of time.
// Engine thread; other threads read under `mutex`.
#pragma once
#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>

#include "engine/base/fd.h"
#include "engine/base/process.h"
#include "engine/base/secret.h"
#include "runtime/comm/rank_protocol.h"
#include "runtime/comm/step_channel.h"
#include "runtime/head/group_members.h"
#include "runtime/head/rank_group.h"

namespace bp::rt {

inline void set_epoch(v1::Epoch* out, Epoch e) {
  out->set_incarnation(e.incarnation);
  out->set_counter(e.counter);
}

struct RankGroup::Impl {
  enum class Phase { kIdle, kForming, kLoading, kServing, kBroken };
  /// What the head holds of a rank on its own host.
  struct Door {
    Fd pidfd;                              // readable once the rank has ended
    std::unique_ptr<HeadStepEnd> steps;    // null: steps go over the socket
  };
  struct SentStep {
    uint64_t number = 0;
    std::string bytes;                     // v1::Step
    int64_t sent_ns = 0;
  };

  RankGroupOptions options;
  std::unique_ptr<bus::Router> router;
  Fd wake;
  std::string host;                // host_identity() of this process
  GroupMembers members;
  std::vector<Door> doors;         // by rank
  // Engine thread writes under `mutex`; other threads read under it.
  mutable std::mutex mutex;
  Phase phase = Phase::kIdle;
  bool served = false;             // kServing was told and the group has not broken since
  Error error;                     // in kBroken; an empty message after shutdown()
  uint32_t result_rank = 0;        // tp_rank 0 of the last pipeline stage
  Secret data_key;
  uint64_t sequence = 0, lease_number = 0;
  int64_t next_beat_ns = 0, last_look_ns = 0;
  uint64_t steps_sent = 0, steps_done = 0;
  std::deque<SentStep> uncommitted;  // sent or to be sent, not answered; oldest first
  std::vector<RankGroupEvent> events;
  // Between the loss of a rank and the next generation's first moment.
  int64_t regroup_since_ns = 0, regroup_until_ns = 0;
  Error regroup_why;               // of the first loss
  uint32_t regroups_in_vain = 0;   // since the last step was done
  // The KV contents. They outlive a generation when every rank holds them whole.
  uint64_t kv_pool = 0;
  bool kv_kept = false;            // of the present welcome
  bool kv_suspect = false;         // a rank was lost that may have spoilt its part
  bool rebuild = false;            // the engine must hear kBroken and kServing: its sequences start again

  explicit Impl(RankGroupOptions o) : options(std::move(o)), members(options.build_id) {}

  v1::RankMessage message() {
    v1::RankMessage m;
    set_epoch(m.mutable_group_epoch(), members.epoch());
    m.set_generation(members.generation());
    m.set_sequence(++sequence);
    return m;
  }
  int64_t beat_ns() const { return options.lease_ms * 1'000'000 / kBeatsPerLease; }
  bool alive() const { return phase != Phase::kIdle && phase != Phase::kBroken; }
  bool serves() const { return alive() && served; }   // it may be forming anew: steps wait meanwhile

  // group_state.cc: messages and time
  void receive(bus::Incoming in);
  void handle(JoinedRank& member, uint32_t rank, v1::RankMessage& m);
  void hello(const std::string& routing_id, const v1::RankHello& h, uint64_t generation);
  void ready(uint32_t rank, const v1::RankReady& r);
  void result(uint32_t rank, v1::StepResult& r);
  void failure(uint32_t rank, const v1::RankFailure& f);
  void tell_end(const std::string& routing_id, Epoch epoch, const std::string& reason);
  void end_members(const std::string& reason);
  void beat();
  void forgive_own_silence(int64_t now);
  void check_lost(int64_t now);
  void broken(Error why);
  int64_t next_due() const;
  bool take_results();

  // group_generation.cc: who is lost, and how the group goes on
  void open_door(uint32_t rank);
  void look_for_dead();
  void lost(uint32_t rank, Error why, bool spoilt);
  void regroup(Error why);
  void welcome_all();
  void send_welcome(uint32_t rank);
  void all_loaded();
  void forget_steps();
  Status send_to(uint32_t rank, const SentStep& step);
  void send_to_all(SentStep& step);
};

}  // namespace bp::rt
