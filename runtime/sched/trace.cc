#include "runtime/sched/trace.h"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "bp/v1/sched.pb.h"

namespace bp::rt {
namespace {

constexpr uint32_t kRecordBytesMax = 64 << 20;
constexpr uint32_t kBlocksMax = 1 << 24;

/// FNV-1a, 64 bits: what is compared is our own, nobody has a use for a collision.
class Digest {
 public:
  Digest& add(std::string_view bytes) {
    for (const char c : bytes) h_ = (h_ ^ static_cast<unsigned char>(c)) * 1099511628211ull;
    return add(bytes.size());
  }
  Digest& add(uint64_t v) {
    for (int i = 0; i < 8; ++i) h_ = (h_ ^ ((v >> (8 * i)) & 255)) * 1099511628211ull;
    return *this;
  }
  uint64_t value() const { return h_; }

 private:
  uint64_t h_ = 1469598103934665603ull;
};

uint64_t digest_of(const Status& s, int64_t retry_after_ms) {
  if (s.ok()) return Digest().add(0).value();
  const bool refused = s.error().code == ErrorCode::kOverloaded;
  return Digest()
      .add(error_name(s.error().code))
      .add(refused ? static_cast<uint64_t>(retry_after_ms) : 0)
      .value();
}
uint64_t digest_of(const std::optional<v1::Step>& step) {
  return step ? Digest().add(step->SerializeAsString()).value() : 0;
}
uint64_t digest_of(const std::vector<uint64_t>& ids) {
  Digest d;
  for (const uint64_t id : ids) d.add(id);
  return d.value();
}
uint64_t digest_of(const Result<std::vector<SequenceUpdate>>& updates) {
  if (!updates.ok()) return Digest().add(error_name(updates.error().code)).value();
  Digest d;
  for (const auto& u : *updates)
    d.add(u.id).add(u.token.SerializeAsString()).add(u.finish_reason).add(u.finished ? 1 : 0);
  return d.value();
}

void write_settings(const SchedulerOptions& o, v1::SchedulerSettings* s) {
  s->set_kv_blocks(o.kv_blocks);
  s->set_kv_block_tokens(o.kv_block_tokens);
  s->set_max_context_tokens(o.max_context_tokens);
  s->set_max_batch_tokens(o.max_batch_tokens);
  s->set_mixed_batch_tokens(o.mixed_batch_tokens);
  s->set_max_sequences(o.max_sequences);
  s->set_stages(o.stages);
  s->set_step_overhead_tokens(o.step_overhead_tokens);
  s->set_attention_parity_tokens(o.attention_parity_tokens);
  s->set_max_waiting(o.max_waiting);
  s->set_max_waiting_tokens(o.max_waiting_tokens);
  s->set_patience_ns(static_cast<uint64_t>(o.patience_ns));
  s->set_prefix_sharing(o.prefix_sharing);
}
SchedulerOptions read_settings(const v1::SchedulerSettings& s) {
  SchedulerOptions o;
  o.kv_blocks = s.kv_blocks();
  o.kv_block_tokens = s.kv_block_tokens();
  o.max_context_tokens = s.max_context_tokens();
  o.max_batch_tokens = s.max_batch_tokens();
  o.mixed_batch_tokens = s.mixed_batch_tokens();
  o.max_sequences = s.max_sequences();
  o.stages = s.stages();
  o.step_overhead_tokens = s.step_overhead_tokens();
  o.attention_parity_tokens = s.attention_parity_tokens();
  o.max_waiting = s.max_waiting();
  o.max_waiting_tokens = s.max_waiting_tokens();
  o.patience_ns = static_cast<int64_t>(s.patience_ns());
  o.prefix_sharing = s.prefix_sharing();
  return o;
}

bool sound(const v1::SchedulerSettings& s) {
  return s.kv_blocks() > 0 && s.kv_blocks() <= kBlocksMax && s.kv_block_tokens() > 0 &&
         s.kv_block_tokens() <= kBlocksMax && s.max_batch_tokens() > 0;
}

void write_request(const SequenceRequest& r, v1::TraceRequest* out) {
  out->set_id(r.id);
  out->mutable_prompt()->Add(r.prompt.begin(), r.prompt.end());
  out->set_max_new_tokens(r.max_new_tokens);
  *out->mutable_sampling() = r.sampling;
  out->mutable_stop_tokens()->Add(r.stop_tokens.begin(), r.stop_tokens.end());
  out->set_priority(r.priority);
  out->set_tenant(r.tenant);
  out->set_deadline_ns(r.deadline_ns);
  out->set_same_prompt_as(r.same_prompt_as);
}
SequenceRequest read_request(const v1::TraceRequest& r) {
  SequenceRequest out;
  out.id = r.id();
  out.prompt.assign(r.prompt().begin(), r.prompt().end());
  out.max_new_tokens = r.max_new_tokens();
  out.sampling = r.sampling();
  out.stop_tokens.assign(r.stop_tokens().begin(), r.stop_tokens().end());
  out.priority = r.priority();
  out.tenant = r.tenant();
  out.deadline_ns = r.deadline_ns();
  out.same_prompt_as = r.same_prompt_as();
  return out;
}

class RecordedScheduler final : public Scheduler {
 public:
  RecordedScheduler(const SchedulerOptions& options, std::function<bool(std::string_view)> write)
      : inner_(Scheduler::make(options)), write_(std::move(write)) {
    v1::SchedulerTrace t;
    write_settings(options, t.mutable_settings());
    record(t);
  }
  Status arrive(std::vector<SequenceRequest> requests, int64_t now_ns) override {
    v1::SchedulerTrace t;
    t.set_now_ns(now_ns);
    for (const auto& r : requests) write_request(r, t.mutable_arrive()->add_requests());
    Status s = inner_->arrive(std::move(requests), now_ns);
    t.set_digest(digest_of(s, inner_->retry_after_ms()));
    record(t);
    return s;
  }
  void cancel(uint64_t id) override {
    v1::SchedulerTrace t;
    t.set_cancel(id);
    record(t);
    inner_->cancel(id);
  }
  std::vector<uint64_t> expire(int64_t now_ns) override {
    auto ids = inner_->expire(now_ns);
    if (ids.empty()) return ids;  // it changed nothing
    v1::SchedulerTrace t;
    t.set_now_ns(now_ns);
    t.set_expire(true);
    t.set_digest(digest_of(ids));
    record(t);
    return ids;
  }
  std::optional<v1::Step> next_step(int64_t now_ns) override {
    auto step = inner_->next_step(now_ns);
    // Without a step nothing has changed, but that sequences were preempted in vain: that goes in too.
    const uint64_t preemptions = inner_->counters().preemptions;
    if (!step && preemptions == preemptions_) return step;
    preemptions_ = preemptions;
    v1::SchedulerTrace t;
    t.set_now_ns(now_ns);
    t.set_next_step(step.has_value());
    t.set_digest(digest_of(step));
    record(t);
    return step;
  }
  Result<std::vector<SequenceUpdate>> step_done(const v1::StepResult& result, int64_t now_ns) override {
    auto updates = inner_->step_done(result, now_ns);
    v1::SchedulerTrace t;
    t.set_now_ns(now_ns);
    *t.mutable_step_done() = result;
    t.set_digest(digest_of(updates));
    record(t);
    return updates;
  }
  void group_lost() override {
    v1::SchedulerTrace t;
    t.set_group_lost(true);
    record(t);
    inner_->group_lost();
  }
  int64_t retry_after_ms() const override { return inner_->retry_after_ms(); }
  uint64_t running() const override { return inner_->running(); }
  uint64_t waiting() const override { return inner_->waiting(); }
  uint64_t waiting_tokens() const override { return inner_->waiting_tokens(); }
  double tokens_per_s() const override { return inner_->tokens_per_s(); }
  uint32_t free_blocks() const override { return inner_->free_blocks(); }
  const SchedulerCounters& counters() const override { return inner_->counters(); }

 private:
  void record(const v1::SchedulerTrace& t) {
    if (!write_) return;
    std::string bytes;
    {
      google::protobuf::io::StringOutputStream stream(&bytes);
      google::protobuf::io::CodedOutputStream out(&stream);
      out.WriteVarint32(static_cast<uint32_t>(t.ByteSizeLong()));
      t.SerializeToCodedStream(&out);
    }
    if (!write_(bytes)) write_ = nullptr;
  }
  std::unique_ptr<Scheduler> inner_;
  std::function<bool(std::string_view)> write_;
  uint64_t preemptions_ = 0;
};

/// Does one call again; the digest of what came of it.
uint64_t redo(Scheduler& s, const v1::SchedulerTrace& t, ReplayReport& report) {
  switch (t.call_case()) {
    case v1::SchedulerTrace::kArrive: {
      std::vector<SequenceRequest> requests;
      for (const auto& r : t.arrive().requests()) requests.push_back(read_request(r));
      const Status arrived = s.arrive(std::move(requests), t.now_ns());
      report.refusals += !arrived.ok();
      return digest_of(arrived, s.retry_after_ms());
    }
    case v1::SchedulerTrace::kCancel:
      s.cancel(t.cancel());
      return 0;
    case v1::SchedulerTrace::kExpire:
      return digest_of(s.expire(t.now_ns()));
    case v1::SchedulerTrace::kNextStep: {
      const auto step = s.next_step(t.now_ns());
      report.steps += step.has_value();
      return digest_of(step);
    }
    case v1::SchedulerTrace::kStepDone: {
      const auto updates = s.step_done(t.step_done(), t.now_ns());
      if (updates.ok()) report.updates += updates->size();
      return digest_of(updates);
    }
    case v1::SchedulerTrace::kGroupLost:
      s.group_lost();
      return 0;
    default:
      return ~t.digest();  // settings again, or nothing: no scheduler writes that
  }
}

}  // namespace

std::unique_ptr<Scheduler> make_recorded_scheduler(const SchedulerOptions& options,
                                                   std::function<bool(std::string_view)> write) {
  return std::make_unique<RecordedScheduler>(options, std::move(write));
}

Result<ReplayReport> replay_trace(std::string_view trace) {
  using google::protobuf::io::CodedInputStream;
  ReplayReport report;
  std::unique_ptr<Scheduler> scheduler;
  size_t at = 0;
  while (at < trace.size()) {
    const auto* begin = reinterpret_cast<const uint8_t*>(trace.data()) + at;
    const size_t left = std::min<size_t>(trace.size() - at, kRecordBytesMax + 8);
    CodedInputStream in(begin, static_cast<int>(left));
    uint32_t size = 0;
    const bool has_size = in.ReadVarint32(&size);
    const auto header = static_cast<size_t>(in.CurrentPosition());
    if ((!has_size && left < 5) || (has_size && size <= kRecordBytesMax && header + size > left)) {
      report.cut = true;
      break;
    }
    v1::SchedulerTrace t;
    if (!has_size || size > kRecordBytesMax || !t.ParseFromArray(begin + header, static_cast<int>(size)) ||
        (scheduler == nullptr) != t.has_settings() || (!scheduler && !sound(t.settings()))) {
      return Error{ErrorCode::kCorruptData,
                   fmt::format("trace, byte {}: no record of a scheduler's trace", at), {}};
    }
    at += header + size;
    if (!scheduler) {
      scheduler = Scheduler::make(read_settings(t.settings()));
      continue;
    }
    ++report.calls;
    if (redo(*scheduler, t, report) != t.digest()) {
      return Error{ErrorCode::kConflict,
                   fmt::format("trace, call {} of kind {}, before byte {}: it gives something else now",
                               report.calls, static_cast<int>(t.call_case()), at),
                   "The trace was recorded by another build of bp-head"};
    }
  }
  return report;
}

}  // namespace bp::rt
