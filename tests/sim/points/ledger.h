// Ledger: what really happened outside of the daemon, in a place that no crash reaches. Stage hosts
// and clients write it; at the end it is compared with what the journal says.
//
// Three kinds of fault: lost (something acknowledged is not on record, or was acted on before it
// was), duplicate (an effect brought about twice, two attempts at work on one, an epoch or a run
// number given twice), broken (an invariant of core or journal, or a run that is stuck).
#pragma once
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "bp/v1/stage.pb.h"
#include "storage/journal.h"

namespace bp::sim {

enum class Fault { kNone, kLost, kDuplicate, kBroken };
const char* name_of(Fault fault);

class Ledger {
 public:
  struct Violation {
    Fault fault;
    std::string text;
  };

  /// A host begins the attempt / is through with it or dies.
  void begins(const std::string& host_id, const v1::AttemptRef& ref, const std::string& effect_key);
  void ends(const std::string& host_id, const v1::AttemptRef& ref);
  void host_died(const std::string& host_id);
  /// The two steps of a plugin: does the effect exist, bring it about (or undo it).
  bool exists(const std::string& effect_key) const { return effects_.count(effect_key) > 0; }
  void applies(const std::string& effect_key, const v1::AttemptRef& ref);
  void destroys(const std::string& effect_key) { effects_.erase(effect_key); }
  const std::string& made(const std::string& effect_key) const { return effects_.at(effect_key); }

  /// A host for one attempt (shared ones are started beforehand).
  void spawned(const std::string& host_id) { spawned_.insert(host_id); }
  void acknowledged_result(const v1::AttemptRef& ref) { results_.push_back(ref); }
  void acknowledged_submit(const std::string& key, const std::string& run_id);
  void acknowledged_command(const std::string& run_id, const std::string& request_key);

  void fail(Fault fault, std::string text) { violations_.push_back({fault, std::move(text)}); }
  const std::vector<Violation>& violations() const { return violations_; }

  /// Everything above against the log, which is replayed through the core, and the journal against
  /// itself. `index_may_be_broken`: an error was put in the way of the search index, which the
  /// daemon can do without until it starts again.
  void compare(storage::Journal& journal, bool index_may_be_broken);

 private:
  struct Begun {
    std::string stage;
    uint32_t map_index, attempt;
  };
  using EpochId = std::pair<std::string, uint64_t>;  // run, counter
  struct History;
  void compare_submits(const History& h);
  void compare_results(const History& h);
  void compare_begun(const History& h);

  std::map<std::string, std::string> effects_;  // by effect key: who made it
  std::map<std::string, std::map<std::string, std::string>> at_work_;  // effect key -> host, attempt
  std::map<EpochId, Begun> begun_;
  std::set<std::string> spawned_;
  std::vector<v1::AttemptRef> results_;
  std::map<std::string, std::string> submits_;  // idempotency key -> run id
  std::set<std::pair<std::string, std::string>> commands_;
  std::vector<Violation> violations_;
};

}  // namespace bp::sim
