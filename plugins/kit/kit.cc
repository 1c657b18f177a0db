#include "plugins/kit/kit.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "engine/base/files.h"
#include "plugins/sdk/harness.h"

namespace bp::kit {
namespace {

using v1::AttemptResult;

constexpr int64_t kHelloMs = 15'000;
constexpr size_t kBeatsMax = 8;  // faults are placed at so many beats of an attempt
constexpr size_t kHugeBytes = 4 << 20;
constexpr size_t kLogLinesMax = 5'000;  // of one attempt: more is a flood
constexpr int64_t kSlackMs = 1'000;

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

size_t meaningful(const std::vector<v1::AttemptBeat>& beats) {
  return static_cast<size_t>(std::count_if(beats.begin(), beats.end(), [](const auto& b) {
    return b.has_progress() || !b.handle().empty() || !b.checkpoint().empty() || b.ready();
  }));
}

std::string describe(const Told& t) {
  if (!t.fault.empty()) return t.fault;
  if (!t.result) return t.ready ? "it became ready" : "no result";
  std::string text = AttemptResult::Outcome_Name(t.result->outcome());
  if (t.result->has_error())
    text += " " + t.result->error().code() + ": " + t.result->error().message();
  return text;
}

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

v1::RunAttempt Kit::attempt(v1::AttemptMode mode) const {
  v1::RunAttempt a;
  a.set_mode(mode);
  a.set_effect_key("r-kit/stage/0/" + std::to_string(generation_));
  a.set_deployment_name("kit");
  a.set_run_number(1);
  for (const auto& [k, v] : o_.inputs) (*a.mutable_inputs())[k] = v;
  for (const auto& [k, v] : o_.options) (*a.mutable_options())[k] = v;
  for (const auto& [k, v] : o_.secrets) (*a.mutable_secrets())[k] = v;
  return a;
}

Told Kit::play(const v1::RunAttempt& attempt, Fault fault) {
  Told told;
  auto harness =
      sdk::PluginHarness::start({o_.host_program, o_.plugin, o_.folder, {"--log-level", "error"}});
  if (!harness.ok()) {
    broken_ = harness.error();
    told.fault = "the host does not start: " + harness.error().message;
    return told;
  }
  auto& h = **harness;
  auto hello = h.hello(Deadline::in_ms(kHelloMs));
  if (!hello.ok() || hello->has_load_error()) {
    told.fault = hello.ok() ? hello->load_error().message()
                            : "the host says nothing: the plugin does not return from loading";
    return told;
  }
  v1::AttemptRef ref;
  ref.set_run_id("r-kit");
  ref.set_stage("stage");
  ref.set_attempt(++number_);
  ref.mutable_epoch()->set_incarnation(1);
  ref.mutable_epoch()->set_counter(number_);
  h.send_attempt(ref, attempt);
  auto until = Deadline::in_ms(o_.apply_ms);
  bool told_to_end = false;
  const auto end = [&] {
    h.send_cancel(o_.cancel_ms);
    until = Deadline::in_ms(o_.cancel_ms + kSlackMs);
    told_to_end = true;
  };
  for (;; ::usleep(1000)) {
    const auto recorded = h.recorded();
    told.known = recorded.merged();
    told.beats = meaningful(recorded.beats);
    told.logs = recorded.logs.size();
    told.ready = told.known.ready();
    if (fault.kind == Fault::kKill && !fault.at_result && told.beats >= fault.at_beat)
      return told;  // ~h kills
    if (fault.kind == Fault::kCancel && !told_to_end && told.beats >= fault.at_beat) end();
    if (told.ready && !told_to_end) end();  // goes on until it is told to end
    auto result = h.result(Deadline::in_ms(0), !fault.at_result);
    if (result.ok()) {
      // What the stage said before its result arrived before it.
      told.known = h.recorded().merged();
      told.beats = meaningful(h.recorded().beats);
      told.logs = h.recorded().logs.size();
      if (!fault.at_result) told.result = *result;
      return told;
    }
    if (auto code = h.exit_code(Deadline::in_ms(0)); code.ok()) {
      told.fault = *code < 0 ? std::string("it crashed: signal ") + std::to_string(-*code) + " (" +
                                   strsignal(-*code) + ")"
                             : "it ended the host's process with status " + std::to_string(*code);
      return told;
    }
    if (!until.passed()) continue;
    told.fault = told_to_end
                     ? "it did not end within " + std::to_string(o_.cancel_ms) + " ms of its cancel"
                     : "no result within " + std::to_string(o_.apply_ms) + " ms";
    return told;
  }
}

Told Kit::apply(const Told* before, Fault fault) {
  auto a = attempt(v1::ATTEMPT_MODE_APPLY);
  if (before) {
    a.set_handle(before->handle());
    a.set_checkpoint(before->known.checkpoint());
  }
  return play(a, fault);
}

Told Kit::destroy(const std::string& handle) {
  auto a = attempt(v1::ATTEMPT_MODE_DESTROY);
  a.set_handle(handle);
  return play(a);
}

// Cleans up after a check; the next one begins with an effect key of its own.
std::string Kit::undo(const Told& made, const char* when) {
  const Told gone = destroy(made.handle());
  ++generation_;
  if (gone.succeeded()) return {};
  return std::string("destroy ") + when + ": " + describe(gone);
}

bool Kit::same_outputs(const Told& a, const Told& b) const {
  if (o_.outputs_vary || a.ready || b.ready) return true;
  const auto& x = a.result->outputs();
  const auto& y = b.result->outputs();
  return x.size() == y.size() && std::all_of(x.begin(), x.end(), [&](const auto& kv) {
           auto it = y.find(kv.first);
           return it != y.end() && it->second == kv.second;
         });
}

std::string Kit::load() {
  auto harness =
      sdk::PluginHarness::start({o_.host_program, o_.plugin, o_.folder, {"--log-level", "error"}});
  if (!harness.ok()) {
    broken_ = harness.error();
    return harness.error().message;
  }
  auto hello = (*harness)->hello(Deadline::in_ms(kHelloMs));
  if (!hello.ok())
    return "it does not return from loading within " + std::to_string(kHelloMs) +
           " ms, or ends the process";
  if (hello->has_load_error()) return hello->load_error().message();
  const std::string file = o_.plugin.substr(o_.plugin.rfind('/') + 1);
  if (file != hello->plugin() + ".so" && file != hello->plugin() + ".py") {
    return "the file is " + file + " but the plugin calls itself \"" + hello->plugin() +
           "\": workflows name files";
  }
  return {};
}

std::string Kit::plain_apply() {
  first_ = apply();
  if (first_->good()) return {};
  return describe(*first_) + " (give it what it needs with --input, --option, --secret)";
}

std::string Kit::handle_first() {
  if (first_->result && !first_->result->handle().empty() && first_->known.handle().empty()) {
    return "its handle comes with the result only: what a crash before that leaves behind cannot "
           "be found; "
           "save_handle() before creating";
  }
  return {};
}

std::string Kit::apply_again() {
  const Told second = apply(&*first_);
  std::string broken;
  if (!second.good()) {
    broken = "a second apply of the same effect key: " + describe(second);
  } else if (!same_outputs(*first_, second)) {
    broken = "a second apply of the same effect key has other outputs";
  }
  const std::string left = undo(second.handle().empty() ? *first_ : second, "after two applies");
  return broken.empty() ? left : broken;
}

std::string Kit::killed_at_result() {
  const Told killed = apply(nullptr, {Fault::kKill, 0, true});
  if (!killed.fault.empty()) return describe(killed);
  Told before;
  before.known = killed.known;  // a result that nobody heard leaves only what beats said
  const Told again = apply(&before);
  std::string broken;
  if (!again.good()) {
    broken = "killed between effect and result, then run again: " + describe(again);
  } else if (!same_outputs(*first_, again) && generation_ == 1) {
    broken = "killed between effect and result, then run again: other outputs";
  }
  const std::string left = undo(again, "after that");
  return broken.empty() ? left : broken;
}

std::string Kit::killed_at_beats() {
  for (size_t beat = 0; beat <= std::min(first_->beats, kBeatsMax); ++beat) {
    const Told killed = apply(nullptr, {Fault::kKill, beat, false});
    const std::string when = "killed at beat " + std::to_string(beat);
    if (!killed.fault.empty()) return when + ": " + describe(killed);
    const Told again = apply(&killed);
    if (!again.good()) return when + ", then run again: " + describe(again);
    if (auto left = undo(again, ("after being " + when).c_str()); !left.empty()) return left;
  }
  return {};
}

std::string Kit::cancelled_at_beats() {
  for (size_t beat = 0; beat <= std::min(first_->beats, kBeatsMax); ++beat) {
    const Told ended = apply(nullptr, {Fault::kCancel, beat, false});
    const std::string when = "cancelled at beat " + std::to_string(beat);
    if (!ended.fault.empty()) return when + ": " + ended.fault;
    const auto outcome = ended.result->outcome();
    if (outcome != AttemptResult::CANCELLED && outcome != AttemptResult::SUCCEEDED) {
      return when + ": " + describe(ended) +
             "; expected CANCELLED, or SUCCEEDED when it was through already";
    }
    if (auto left = undo(ended, ("after being " + when).c_str()); !left.empty()) return left;
  }
  return {};
}

std::string Kit::destroy_twice() {
  const Told made = apply();
  if (!made.good()) return "apply: " + describe(made);
  const Told first = destroy(made.handle());
  if (!first.succeeded()) return "destroy: " + describe(first);
  const Told second = destroy(made.handle());
  ++generation_;
  return second.succeeded() ? "" : "a second destroy of the same handle: " + describe(second);
}

std::string Kit::destroy_of_nothing() {
  const Told gone = destroy("");
  return gone.succeeded()
             ? ""
             : "destroy without a handle (apply never got anywhere): " + describe(gone);
}

std::string Kit::unknown_handle() {
  const Told told = destroy(std::string("no such thing\0\xff\x01", 16));
  ++generation_;
  return told.fault.empty() ? "" : "destroy of a handle it never gave: " + told.fault;
}

std::string Kit::recover_unknown() {
  Told before;
  before.known.set_handle(std::string("no such thing\0\xff\x02", 16));
  before.known.set_checkpoint(std::string("\x08\x96\xff\xff", 4));
  const Told told = apply(&before);
  if (!told.fault.empty()) return "apply with a handle and checkpoint it never gave: " + told.fault;
  (void)undo(told, "");
  return {};
}

std::string Kit::missing_inputs() {
  auto a = attempt(v1::ATTEMPT_MODE_APPLY);
  a.clear_inputs();
  a.clear_options();
  a.clear_secrets();
  const Told told = play(a);
  if (!told.fault.empty()) return "apply without any input or option: " + told.fault;
  (void)undo(told, "");
  return {};
}

std::string Kit::huge_inputs() {
  auto a = attempt(v1::ATTEMPT_MODE_APPLY);
  const size_t each = kHugeBytes / std::max<size_t>(1, o_.inputs.size());
  for (auto& [k, v] : *a.mutable_inputs()) v = std::string(each, '\xfe');
  for (auto& [k, v] : *a.mutable_options()) v = std::string(64 << 10, '/');
  const Told told = play(a);
  if (!told.fault.empty())
    return "apply with " + std::to_string(kHugeBytes >> 20) +
           " MiB of junk as inputs: " + told.fault;
  (void)undo(told, "");
  return {};
}

std::string Kit::quiet_logs() {
  if (first_->logs < kLogLinesMax) return {};
  return "one apply logs " + std::to_string(first_->logs) + " lines; a log beyond its limit is cut";
}

const std::vector<Kit::Named>& Kit::all() {
  static const std::vector<Named> named{
      {"load", "it loads, speaks this host's ABI, and is named as its file", false, &Kit::load},
      {"apply", "one attempt succeeds, or becomes ready and ends when it is told to", false,
       &Kit::plain_apply},
      {"handle_first", "its handle is saved before its result", true, &Kit::handle_first},
      {"quiet_logs", "one attempt logs no flood", true, &Kit::quiet_logs},
      {"apply_again", "a second attempt of the same effect key succeeds with the same outputs",
       true, &Kit::apply_again},
      {"killed_at_result", "killed between effect and result and run again, it succeeds", true,
       &Kit::killed_at_result},
      {"killed_at_beats", "killed at any beat and run again, it succeeds, and destroy clears up",
       true, &Kit::killed_at_beats},
      {"cancelled_at_beats", "cancelled at any beat, it ends in time, and destroy clears up", true,
       &Kit::cancelled_at_beats},
      {"destroy_twice", "destroy of what is gone succeeds", true, &Kit::destroy_twice},
      {"destroy_of_nothing", "destroy of what never was succeeds", false, &Kit::destroy_of_nothing},
      {"unknown_handle", "destroy of a handle it never gave gets an answer", false,
       &Kit::unknown_handle},
      {"recover_unknown", "apply with a handle and checkpoint it never gave gets an answer", false,
       &Kit::recover_unknown},
      {"missing_inputs", "apply without inputs gets an answer", false, &Kit::missing_inputs},
      {"huge_inputs", "apply with megabytes of junk gets an answer", false, &Kit::huge_inputs},
  };
  return named;
}

Result<std::vector<Finding>> Kit::run() {
  std::vector<Finding> findings;
  bool loads = true, applies = true;
  const auto chosen = [this](const char* name) {
    return o_.only.empty() || std::find(o_.only.begin(), o_.only.end(), name) != o_.only.end();
  };
  const bool apply_needed = std::any_of(
      all().begin(), all().end(), [&](const auto& c) { return c.needs_apply && chosen(c.name); });
  for (const auto& c : all()) {
    const bool built_on = c.check == &Kit::load || (c.check == &Kit::plain_apply && apply_needed);
    if (!chosen(c.name) && !built_on) continue;
    Finding f{c.name, Finding::kKept, {}};
    if (!loads || (c.needs_apply && !applies)) {
      f.verdict = Finding::kSkipped;
      f.text = loads ? "a plain apply does not succeed" : "the plugin does not load";
    } else {
      f.text = (this->*c.check)();
      if (!f.text.empty()) f.verdict = Finding::kBroken;
    }
    if (!broken_.message.empty()) return broken_;
    if (f.verdict == Finding::kBroken && f.check == "load") loads = false;
    if (f.verdict == Finding::kBroken && f.check == "apply") applies = false;
    findings.push_back(std::move(f));
  }
  return findings;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> checks() {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& c : Kit::all()) out.emplace_back(c.name, c.demands);
  return out;
}

Result<std::vector<Finding>> run_kit(const Options& options) { return Kit(options).run(); }

}  // namespace bp::kit
