// What a shared host says and hears.
#include "engine/stage_host/shared_loop_impl.h"
#include "engine/stage_host/result_check.h"
#include "engine/stage_host/wire.h"

namespace bp::stage_host {

void SharedLoop::ring() {
  if (rung_.exchange(true)) return;
  uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

void SharedLoop::has_news(SharedAttempt& attempt) {
  {
    std::lock_guard lock(mutex_);
    if (attempt.news) return;
    attempt.news = true;
    news_.push_back(&attempt);
  }
  ring();
}

void SharedLoop::flush(bool even_empty) {
  if (batch_.empty() && !even_empty) return;
  auto sent = dealer_.send(batch_);
  batch_.clear();
  sent_ns_ = monotonic_ns();
  // What was not sent and counts is said again after the next hello.
  if (!sent.ok() && connected_) BP_LOG(debug, "message.dropped", "why={}", sent.error().message);
  connected_ = sent.ok();
}

void SharedLoop::append(const SharedAttempt& attempt, const v1::StageMessage& message) {
  const auto* field = message.GetReflection()->GetOneofFieldDescriptor(
      message, message.GetDescriptor()->FindOneofByName("body"));
  if (!field) return;
  const auto& body = message.GetReflection()->GetMessage(message, field);
  append_message(batch_, attempt.ref(), ++sequence_, static_cast<uint32_t>(field->number()),
                 body.SerializeAsString());
  if (batch_.size() > kBatchBytes) flush(false);
}

void SharedLoop::say_hello(int64_t now) {
  v1::HostHello hello = make_hello(options_, plugin_);
  for (const auto& [key, attempt] : attempts_) {
    if (attempt->state == SharedAttempt::State::kAcknowledged) continue;
    if (!hello.add_holds()->ParseFromString(attempt->ref())) hello.mutable_holds()->RemoveLast();
  }
  hello_ns_ = now;
  ++sequence_;
  if (heard_ns_ != 0) awaited_hello_ = sequence_;  // nobody can have sent anything before the first
  append_message(batch_, {}, sequence_, v1::StageMessage::kHelloFieldNumber,
                 hello.SerializeAsString());
  flush(false);
}

void SharedLoop::say_result(SharedAttempt& attempt, int64_t now) {
  if (attempt.calls()) say_messages(attempt);  // what it said before comes before
  if (attempt.sequence == 0) {
    attempt.sequence = ++sequence_;
    unacknowledged_.emplace(attempt.sequence, &attempt);
  }
  attempt.said_ns = now;
  said_.push_back(attempt.sequence);
  append_message(batch_, attempt.ref(), attempt.sequence, v1::StageMessage::kResultFieldNumber,
                 attempt.result());
  if (batch_.size() > kBatchBytes) flush(false);
}

void SharedLoop::say_messages(SharedAttempt& attempt) {
  HostCalls* calls = attempt.calls();
  if (!calls) return;
  for (const auto& message : calls->take_outgoing()) append(attempt, message);
}

void SharedLoop::receive(std::string_view payload) {
  heard_ns_ = monotonic_ns();
  WireReader batch(payload);
  while (auto field = batch.next()) {
    if (field->number == v1::StageBatch::kMessagesFieldNumber && field->is_bytes) {
      handle(field->bytes);
    } else if (field->number == v1::StageBatch::kResultAcksFieldNumber && !field->is_bytes) {
      on_ack(field->value);
    } else if (field->number == v1::StageBatch::kResultAcksFieldNumber) {
      WireReader acks(field->bytes);
      while (auto sequence = acks.varint()) on_ack(*sequence);
    }
  }
  if (batch.failed())
    BP_LOG(warn, "message.refused", "why=malformed-batch bytes={}", payload.size());
}

void SharedLoop::handle(std::string_view bytes) {
  std::string_view ref, run;
  bool is_run = false;
  WireReader reader(bytes);
  while (auto field = reader.next()) {
    if (field->number == v1::StageMessage::kRefFieldNumber) ref = field->bytes;
    if (field->number == v1::StageMessage::kRunFieldNumber && field->is_bytes) {
      is_run = true;
      run = field->bytes;
    }
  }
  if (is_run && !reader.failed()) return on_run(ref, run);
  auto message = bus::parse<v1::StageMessage>(bytes);
  if (message.ok()) return on_other(*message);
  BP_LOG(warn, "message.refused", "why={}", message.error().message);
}

SharedAttempt& SharedLoop::fresh() {
  if (free_.empty()) {
    all_.push_back(std::make_unique<SharedAttempt>(*this));
    free_.push_back(all_.back().get());
  }
  SharedAttempt& a = *free_.back();
  free_.pop_back();
  return a;
}

void SharedLoop::on_run(std::string_view ref, std::string_view run) {
  auto key = attempt_key(ref);
  if (!key) {
    BP_LOG(warn, "message.refused", "why=malformed-ref bytes={}", ref.size());
    return;
  }
  if (!plugin_.ok()) return;  // it knows from our hello
  // Sent before our last hello was read: by now it may be another host's. It comes again if it is
  // ours.
  if (awaited_hello_ != 0) return;
  if (auto it = attempts_.find(*key); it != attempts_.end()) {
    // Sent again: the daemon did not hear of it. A result that waits for its ack is said at once.
    if (it->second->state == SharedAttempt::State::kDone) say_result(*it->second, monotonic_ns());
    return;
  }
  SharedAttempt& a = fresh();
  a.begin(std::move(*key), ref, run, monotonic_ns());
  attempts_.emplace(a.key(), &a);
  young_.emplace_back(&a, a.begun_ns);
  arrived_.push_back(&a);
  ++held_;
}

SharedAttempt* SharedLoop::find(const v1::AttemptRef& ref) {
  auto key = attempt_key(ref.SerializeAsString());
  auto it = key ? attempts_.find(*key) : attempts_.end();
  return it == attempts_.end() ? nullptr : it->second;
}

void SharedLoop::on_other(const v1::StageMessage& m) {
  if (m.has_hello_ack()) {
    if (m.hello_ack().hello_sequence() == awaited_hello_) awaited_hello_ = 0;
    auto common = options_of(m.hello_ack());
    std::lock_guard lock(mutex_);
    common_ = std::move(common);
    repeat_all_ = true;
    return;
  }
  SharedAttempt* a = find(m.ref());
  if (!a) {
    BP_LOG(debug, "message.dropped", "why=unknown-attempt run={} stage={}", m.ref().run_id(),
           m.ref().stage());
    return;
  }
  if (m.has_result_ack() && a->state == SharedAttempt::State::kDone) return acknowledged(*a);
  if (m.has_cancel()) a->cancel(m.cancel().deadline_ms());
  HostCalls* calls = a->calls();
  if (!calls) return;
  if (m.has_node_reply()) calls->on_node_reply(m.node_reply());
  if (m.has_node_notice()) calls->on_notice(m.node_notice());
  if (m.has_secret_put_ack()) calls->on_secret_ack(m.secret_put_ack());
}

void SharedLoop::on_ack(uint64_t sequence) {
  auto it = unacknowledged_.find(sequence);
  if (it != unacknowledged_.end()) acknowledged(*it->second);
}

void SharedLoop::acknowledged(SharedAttempt& a) {
  unacknowledged_.erase(a.sequence);
  a.state = SharedAttempt::State::kAcknowledged;
  a.forget();
  --held_;
  held_ns_ = heard_ns_;
  remembered_.push_back(&a);
}

// Takes in what the workers and their stages made since the last turn.

int run_shared(const HostOptions& options, Result<const bp_stage_v1*> plugin, bus::Dealer& dealer,
               Fd wake) {
  SharedLoop loop(options, std::move(plugin), dealer, std::move(wake));
  const int status = loop.run();
  BP_LOG(info, "host.ended", "status={}", status);
  if (loop.stages_run()) ::_exit(status);
  return status;
}

}  // namespace bp::stage_host
