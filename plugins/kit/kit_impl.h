// Kit: one plugin under test. Private to kit.cc (how attempts are played) and kit_checks.cc (what is demanded).
#pragma once
#include <optional>

#include "plugins/kit/kit.h"
#include "plugins/sdk/harness.h"

namespace bp::kit {

using v1::AttemptResult;

inline constexpr int64_t kHelloMs = 15'000;
inline constexpr size_t kBeatsMax = 8;  // faults are placed at so many beats of an attempt
inline constexpr size_t kHugeBytes = 4 << 20;
inline constexpr size_t kLogLinesMax = 5'000;  // of one attempt: more is a flood
inline constexpr int64_t kSlackMs = 1'000;

// What became of one attempt.
struct Told {
  std::optional<AttemptResult> result;  // none: it was killed, crashed, or never answered
  std::string fault;                    // crashed, hung...; empty: none
  v1::AttemptBeat known;                // merged beats
  size_t beats = 0;                     // those that said something
  size_t logs = 0;
  bool ready = false;
  bool succeeded() const { return result && result->outcome() == AttemptResult::SUCCEEDED; }
  bool good() const { return fault.empty() && (ready || succeeded()); }
  std::string handle() const {
    return result && !result->handle().empty() ? result->handle() : known.handle();
  }
};

// A fault at the beat of that number (from 1), or at the result (`at_result`).
struct Fault {
  enum Kind { kNone, kKill, kCancel } kind = kNone;
  size_t at_beat = 0;  // 0: at once
  bool at_result = false;
};

size_t meaningful(const std::vector<v1::AttemptBeat>& beats);
std::string describe(const Told& t);

class Kit {
 public:
  explicit Kit(const Options& o) : o_(o) {}
  Result<std::vector<Finding>> run();
  struct Named {
    const char* name;
    const char* demands;
    bool needs_apply;
    std::string (Kit::*check)();  // what is broken; empty: nothing
  };
  static const std::vector<Named>& all();

 private:
  v1::RunAttempt attempt(v1::AttemptMode mode) const;
  Told play(const v1::RunAttempt& attempt, Fault fault = {});
  Told apply(const Told* before = nullptr, Fault fault = {});
  Told destroy(const std::string& handle);
  std::string undo(const Told& made, const char* when);
  bool same_outputs(const Told& a, const Told& b) const;

  std::string load();
  std::string plain_apply();
  std::string handle_first();
  std::string apply_again();
  std::string killed_at_result();
  std::string killed_at_beats();
  std::string cancelled_at_beats();
  std::string destroy_twice();
  std::string destroy_of_nothing();
  std::string unknown_handle();
  std::string recover_unknown();
  std::string missing_inputs();
  std::string huge_inputs();
  std::string quiet_logs();

  const Options& o_;
  Error broken_{ErrorCode::kInternal, "", {}};  // of the kit itself
  uint32_t number_ = 0, generation_ = 1;
  std::optional<Told> first_;  // the plain apply
};

}  // namespace bp::kit
