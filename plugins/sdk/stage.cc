#include "plugins/sdk/stage.h"

#include <cstdlib>

#include <algorithm>
#include <exception>
#include <thread>

#include "engine/base/limits.h"
#include "engine/bus/bus.h"

namespace bp::sdk {
namespace {

bp_bytes bytes_of(const std::string& s) { return bp_bytes{s.data(), s.size()}; }

/// An older host's table may end before this member.
template <class Member>
bool has(const bp_stage_host_v1* host, Member bp_stage_host_v1::*member) {
  const auto* at = reinterpret_cast<const char*>(&(host->*member));
  return at + sizeof(Member) <= reinterpret_cast<const char*>(host) + host->size && host->*member;
}

void take_string(void* arg, bp_bytes b) { static_cast<std::string*>(arg)->assign(b.data, b.size); }

void fill(v1::ErrorInfo* out, const Error& e) {
  out->set_code(std::string(error_name(e.code)));
  out->set_message(e.message);
  out->set_remedy(std::string(e.what_to_do()));
}

void hand_over(const StageResult& result, void (*take)(void*, bp_bytes), void* arg) {
  std::string bytes = result.SerializeAsString();
  take(arg, bytes_of(bytes));
}

StageResult failed(const Error& e) {
  StageResult r;
  r.set_outcome(e.code == ErrorCode::kCancelled ? StageResult::CANCELLED : StageResult::FAILED);
  fill(r.mutable_error(), e);
  return r;
}

}  // namespace

StageContext::StageContext(const bp_stage_host_v1* host, v1::AttemptRef ref, v1::RunAttempt attempt)
    : host_(host), ref_(std::move(ref)), attempt_(std::move(attempt)), handle_(attempt_.handle()) {}

Epoch StageContext::epoch() const {
  return Epoch{ref_.epoch().incarnation(), ref_.epoch().counter()};
}

std::string StageContext::input(const std::string& name) const {
  auto it = attempt_.inputs().find(name);
  return it == attempt_.inputs().end() ? std::string() : it->second;
}

std::string StageContext::option(const std::string& name, const std::string& otherwise) const {
  auto it = attempt_.options().find(name);
  if (it != attempt_.options().end()) return it->second;
  std::string value;
  if (has(host_, &bp_stage_host_v1::option) && host_->option(host_->self, bytes_of(name), &take_string, &value) == 1) {
    return value;
  }
  return otherwise;
}

Result<std::string> StageContext::secret(const std::string& name) const {
  auto it = attempt_.secrets().find(name);
  if (it == attempt_.secrets().end()) {
    return Error{ErrorCode::kNotFound, "stage " + ref_.stage() + " has no secret \"" + name + "\"",
                 "Submit the recipe with it, and let the stage's definition say needs_secrets"};
  }
  return it->second;
}

std::string StageContext::handle() const {
  std::lock_guard lock(mutex_);
  return handle_;
}

void StageContext::progress(uint64_t done, uint64_t total, const std::string& unit,
                            const std::string& note) {
  v1::AttemptBeat beat;
  beat.mutable_progress()->set_done(done);
  beat.mutable_progress()->set_total(total);
  beat.mutable_progress()->set_unit(unit);
  beat.mutable_progress()->set_note(note);
  host_->beat(host_->self, bytes_of(beat.SerializeAsString()));
}

void StageContext::save_checkpoint(const std::string& bytes) {
  BP_CHECK(bytes.size() <= limits::kCheckpointBytes);
  v1::AttemptBeat beat;
  beat.set_checkpoint(bytes);
  host_->beat(host_->self, bytes_of(beat.SerializeAsString()));
}

void StageContext::save_handle(const std::string& bytes) {
  BP_CHECK(bytes.size() <= limits::kCheckpointBytes);
  {
    std::lock_guard lock(mutex_);
    handle_ = bytes;
  }
  v1::AttemptBeat beat;
  beat.set_handle(bytes);
  host_->beat(host_->self, bytes_of(beat.SerializeAsString()));
}

void StageContext::ready(const std::map<std::string, std::string>& outputs) {
  v1::AttemptBeat beat;
  beat.set_ready(true);
  for (const auto& [k, v] : outputs) (*beat.mutable_outputs())[k] = v;
  beat.set_handle(handle());
  host_->beat(host_->self, bytes_of(beat.SerializeAsString()));
}

void StageContext::log(const std::string& level, const std::string& text) {
  host_->log(host_->self, level.c_str(), bytes_of(text));
}

bool StageContext::cancelled() const { return host_->cancelled(host_->self, nullptr) != 0; }

bool StageContext::sleep_ms(int64_t ms) const {
  if (has(host_, &bp_stage_host_v1::wait)) return host_->wait(host_->self, ms) == 0;
  Deadline until = Deadline::in_ms(ms);
  while (!until.passed()) {
    if (cancelled()) return false;
    auto part = std::min<int64_t>(until.ns() - monotonic_ns(), 10'000'000);
    if (part > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(part));
  }
  return !cancelled();
}

Result<v1::NodeCommandReply> StageContext::node_call(const std::string& node_id,
                                                     v1::NodeCommand command, int64_t deadline_ms) {
  command.set_run_id(ref_.run_id());
  *command.mutable_epoch() = ref_.epoch();
  v1::NodeCall call;
  call.set_node_id(node_id);
  call.set_deadline_ms(deadline_ms);
  *call.mutable_command() = std::move(command);
  std::string bytes = call.SerializeAsString(), reply_bytes;
  int rc = host_->node_call(host_->self, bytes_of(bytes), &take_string, &reply_bytes);
  if (rc == 2) return Error{ErrorCode::kCancelled, "cancelled while waiting for node " + node_id, {}};
  if (rc != 0) {
    return Error{ErrorCode::kDeadlineExceeded,
                 "node " + node_id + " did not answer within " + std::to_string(deadline_ms) + " ms", {}};
  }
  v1::NodeCommandReply reply;
  if (!reply.ParseFromString(reply_bytes)) {
    return Error{ErrorCode::kProtocol, "node " + node_id + " sent a malformed reply", {}};
  }
  if (reply.has_error()) {
    return Error{error_code_from_name(reply.error().code()),
                 "node " + node_id + ": " + reply.error().message(), reply.error().remedy()};
  }
  return reply;
}

std::optional<v1::NodeNotice> StageContext::next_notice(int64_t wait_ms) {
  std::string bytes;
  if (host_->node_notice(host_->self, wait_ms, &take_string, &bytes) != 1) return std::nullopt;
  v1::NodeNotice notice;
  if (!notice.ParseFromString(bytes)) return std::nullopt;
  return notice;
}

Status StageContext::put_secret(const std::string& name, const std::string& value) {
  if (host_->secret_put(host_->self, name.c_str(), bytes_of(value)) != 0) {
    return Error{ErrorCode::kDeadlineExceeded,
                 "the daemon did not store secret \"" + name + "\" in time", {}};
  }
  return {};
}

StageResult StageContext::succeed(const std::string& value) const {
  return succeed(std::map<std::string, std::string>{{"value", value}});
}

StageResult StageContext::succeed(const std::map<std::string, std::string>& outputs) const {
  StageResult r;
  r.set_outcome(StageResult::SUCCEEDED);
  for (const auto& [k, v] : outputs) (*r.mutable_outputs())[k] = v;
  r.set_handle(handle());
  return r;
}

StageResult StageContext::fail(const Error& error) const {
  StageResult r = failed(error);
  r.set_handle(handle());
  return r;
}

StageResult StageContext::fail(const Error& error, const std::vector<v1::Problem>& problems) const {
  StageResult r = fail(error);
  for (const auto& p : problems) *r.mutable_error()->add_problems() = p;
  return r;
}

StageResult StageContext::rewind(const std::string& stage, const Error& why) const {
  StageResult r = fail(why);
  if (r.outcome() == StageResult::FAILED) r.set_rewind_to_stage(stage);
  return r;
}

StageResult StageContext::cancelled_result() const {
  return fail(Error{ErrorCode::kCancelled, "stage " + ref_.stage() + " was cancelled", {}});
}

StageResult StageContext::needs_human(const Error& error,
                                      const std::vector<std::string>& survivors) const {
  StageResult r = fail(error);
  r.set_outcome(StageResult::NEEDS_HUMAN);
  for (const auto& s : survivors) r.add_survivors(s);
  return r;
}

namespace {

// Options "hold_before_ms" and "hold_after_ms" of a stage's definition keep an attempt open for that long
// before and after its work, so that fault tests can hit a moment inside a stage that takes milliseconds.
// False: the attempt was cancelled meanwhile.
bool hold(const StageContext& ctx, const char* option) {
  if (ctx.attempt().mode() != v1::ATTEMPT_MODE_APPLY) return true;
  const std::string text = ctx.option(option);
  return text.empty() || ctx.sleep_ms(std::strtoll(text.c_str(), nullptr, 10));
}

StageResult run_stage(Stage& stage, StageContext& ctx) {
  if (ctx.attempt().mode() == v1::ATTEMPT_MODE_DESTROY) return stage.destroy(ctx);
  if (!hold(ctx, "hold_before_ms")) return ctx.cancelled_result();
  StageResult result = stage.run(ctx);
  if (result.outcome() == StageResult::SUCCEEDED && !hold(ctx, "hold_after_ms")) return ctx.cancelled_result();
  return result;
}

}  // namespace

void run_attempt(Stage& stage, const bp_stage_host_v1* host, bp_bytes ref_bytes, bp_bytes attempt_bytes,
                 void (*take)(void*, bp_bytes), void* arg) {
  bus::quiet_protobuf();  // a plugin may bring a copy of the library of its own
  v1::AttemptRef ref;
  v1::RunAttempt attempt;
  if (host->size < BP_STAGE_HOST_V1_MIN_SIZE ||
      !ref.ParseFromArray(ref_bytes.data, static_cast<int>(ref_bytes.size)) ||
      !attempt.ParseFromArray(attempt_bytes.data, static_cast<int>(attempt_bytes.size))) {
    hand_over(failed(Error{ErrorCode::kProtocol, "the host handed over a malformed attempt", {}}), take, arg);
    return;
  }
  StageContext ctx(host, std::move(ref), std::move(attempt));
  StageResult result;
  try {
    result = run_stage(stage, ctx);
  } catch (const std::exception& e) {
    result = ctx.fail(Error{ErrorCode::kPluginCrash,
                            "stage " + ctx.ref().stage() + " threw: " + e.what(), {}});
  } catch (...) {
    result = ctx.fail(Error{ErrorCode::kPluginCrash,
                            "stage " + ctx.ref().stage() + " threw something that is no std::exception", {}});
  }
  if (result.outcome() == StageResult::OUTCOME_UNSPECIFIED) {
    result = ctx.fail(Error{ErrorCode::kInternal,
                            "stage " + ctx.ref().stage() + " returned a result without an outcome", {}});
  }
  hand_over(result, take, arg);
}

}  // namespace bp::sdk
