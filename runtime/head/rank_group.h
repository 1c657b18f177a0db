// RankGroup: the head's end of the rendezvous. Forms the group of ranks of one epoch, leases them, sends
// them steps, and says so when the group breaks.
//
// Owned by the engine loop and stepped by it: poll() is the loop's only wait. All calls come from that one
// thread but wake() and fill_status(), which any thread may call. poll() must be called at least every
// lease_ms / 8, or the leases of the ranks lapse: give it short deadlines.
//
// A group goes: expect_group -> every rank says hello -> welcome (peers, data key) -> every rank ready
// (kServing) -> steps and results -> broken, at most once. A broken group stays broken until expect_group
// names a newer epoch: its ranks have been told to end by then.
//
// A rank that is lost does not break it: the others are told to leave, its node starts a new one under the same
// epoch, and all form the next generation. Steps sent meanwhile wait. Where every rank still holds the KV contents
// whole, the uncommitted steps are sent again and nobody outside notices; else kBroken and kServing follow each
// other, and step numbers start at 1 again. A generation that does not come together within kRegroupMs breaks the
// group.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bp/v1/rank.pb.h"
#include "engine/base/epoch.h"
#include "engine/base/limits.h"
#include "engine/base/result.h"
#include "engine/bus/bus.h"

namespace bp::rt {

struct RankGroupOptions {
  std::string endpoint;            // "tcp://ADDRESS:PORT"
  bus::KeyPair keys;               // the head's own
  std::string rank_public_key;     // the only key that may connect
  std::string build_id;            // ranks of another build are refused
  int64_t lease_ms = limits::kRankLeaseMs;
  int64_t step_deadline_ms = limits::kStepDeadlineMs;  // a step without its result for so long breaks the group
};

struct RankGroupEvent {
  enum class Kind {
    kServing,    // all ranks are loaded and connected: steps may be sent, numbers start at 1 (again)
    kStepDone,   // `result`; results come in the order of the steps
    kBroken,     // `error` says which rank, at which step, why
  };
  Kind kind = Kind::kBroken;
  Epoch epoch;                     // of the group that it is about
  v1::StepResult result;
  Error error;
};

class RankGroup {
 public:
  /// Binds the port. kPortBusy, kPermission.
  static Result<std::unique_ptr<RankGroup>> open(bus::Context& context, RankGroupOptions options);
  /// Tells the ranks to end.
  ~RankGroup();
  /// The endpoint in use, with the real port.
  const std::string& endpoint() const;

  /// From now on only ranks of `epoch` may join, one for each of plan.ranks; older ones are told to end.
  /// The same epoch again changes nothing. kStaleEpoch when it is older than the present one.
  Status expect_group(Epoch epoch, const v1::DeploymentPlan& plan);

  /// Waits until something happened, wake() was called, or the deadline passed; does what is due (leases,
  /// replies) meanwhile. May return nothing.
  std::vector<RankGroupEvent> poll(Deadline deadline);
  /// Ends a poll() under way or the next one. Any thread.
  void wake();

  /// Sends a step to all ranks. step.number must be the next one (1, 2, ...) of this group. kConflict when
  /// the group is not serving; the error that broke it when it breaks here (kBroken follows).
  Status send_step(const v1::Step& step);

  /// Gives the group up for a reason that only the caller can see: its ranks are told to end, kBroken
  /// follows, and the status tells `why`. Without a living group it changes nothing.
  void fail(Error why);

  /// Tells the ranks to end, and forgets them; the group is then broken without an event.
  void shutdown(const std::string& reason);

  bool serving() const;            // any thread
  /// Fills group_epoch, ranks_expected, ranks_joined, ranks_loaded, serving, group_error, ranks. Any thread.
  void fill_status(v1::HeadStatus* status) const;

 private:
  void wait(Deadline deadline);
  struct Impl;
  explicit RankGroup(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::rt
