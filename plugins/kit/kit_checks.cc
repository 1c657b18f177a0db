// What the kit demands of a plugin, a function each.
#include <algorithm>
#include <cstring>

#include "engine/base/files.h"
#include "plugins/kit/kit_impl.h"

namespace bp::kit {

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

}  // namespace bp::kit
