#include "plugins/kit/kit.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "engine/base/files.h"
#include "plugins/kit/kit_impl.h"

namespace bp::kit {

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

std::vector<std::pair<std::string, std::string>> checks() {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& c : Kit::all()) out.emplace_back(c.name, c.demands);
  return out;
}

Result<std::vector<Finding>> run_kit(const Options& options) { return Kit(options).run(); }

}  // namespace bp::kit
