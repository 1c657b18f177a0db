// What stage hosts say, and what they are told.
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/shell/host.h"
#include "engine/shell/stage_events.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

constexpr size_t kLogTextBytes = 16 << 10;
constexpr size_t kErrorBytes = 8 << 10;
constexpr size_t kSecretBytes = 64 << 10;

bool is_attempt(const v1::AttemptRef& m, const core::Attempt& ref) {
  return m.run_id() == ref.run_id && m.stage() == ref.stage && m.map_index() == ref.map_index &&
         same_epoch(m.epoch(), ref.epoch);
}

core::Attempt attempt_of(const v1::AttemptRef& m) {
  core::Attempt a;
  a.run_id = m.run_id();
  a.stage = m.stage();
  a.map_index = m.map_index();
  a.attempt = m.attempt();
  a.epoch = m.epoch();
  return a;
}

}  // namespace

void Hosts::send(const std::string& routing_id, const core::Attempt& ref,
                 v1::StageMessage message) {
  v1::StageBatch batch;
  auto* m = batch.add_messages();
  *m = std::move(message);
  m->set_sequence(++sequence_);
  auto* r = m->mutable_ref();
  r->set_run_id(ref.run_id);
  r->set_stage(ref.stage);
  r->set_map_index(ref.map_index);
  r->set_attempt(ref.attempt);
  *r->mutable_epoch() = ref.epoch;
  world_.transport.send(Channel::kStages, routing_id, batch.SerializeAsString());
}

void Hosts::on_message(const bus::Peer& peer, const v1::StageBatch& batch) {
  for (const auto& m : batch.messages()) {
    // A host may vanish from the table while its batch is worked off.
    auto it = hosts_.find(peer.routing_id);
    if (it == hosts_.end()) {
      on_stranger(peer, m);
    } else if (m.has_ref() ? is_attempt(m.ref(), it->second->ref) : m.has_hello()) {
      handle(*it->second, m);
    } else {
      BP_LOG(debug, "message.dropped", "host={} why=other-attempt", peer.routing_id);
    }
  }
}

// A host of an attempt that is over: its result is fenced by the core, or acknowledged when the run
// is gone.
void Hosts::on_stranger(const bus::Peer& peer, const v1::StageMessage& m) {
  if (!m.has_result() || !m.has_ref()) return;
  const core::Attempt ref = attempt_of(m.ref());
  if (conductor_.find(ref.run_id)) {
    if (strangers_.size() > 10'000) strangers_.clear();
    strangers_[key_of(ref)] = peer.routing_id;
    return on_result(ref, m.result());
  }
  v1::StageMessage ack;
  ack.mutable_result_ack();
  send(peer.routing_id, ref, std::move(ack));
}

void Hosts::handle(Host& host, const v1::StageMessage& m) {
  host.heard_boot_ms = world_.clock.boot_ms();
  if (!host.greeted) {
    host.greeted = true;
    const auto* run = conductor_.find(host.ref.run_id);
    const auto* d = run ? definition_of(*run, host.ref.stage) : nullptr;
    watch_beat(host, d && d->heartbeat_timeout_ms() > 0 ? d->heartbeat_timeout_ms() : kHelloMs,
               false);
    if (host.cancel) {
      v1::StageMessage cancel;
      *cancel.mutable_cancel() = *host.cancel;
      send(host.ref.host_id, host.ref, std::move(cancel));
    }
  }
  switch (m.body_case()) {
    case v1::StageMessage::kHello:
      return on_hello(host, m);
    case v1::StageMessage::kBeat:
      return on_beat(host, m.beat());
    case v1::StageMessage::kResult:
      if (host.acknowledged) {
        v1::StageMessage ack;
        ack.mutable_result_ack();
        return send(host.ref.host_id, host.ref, std::move(ack));
      }
      if (host.result_fed) return;  // its commit is under way
      host.result_fed = true;
      return on_result(host.ref, m.result());
    default:
      return on_call(host.ref.host_id, host.ref, m);
  }
}

void Hosts::on_call(const std::string& host_id, const core::Attempt& ref,
                    const v1::StageMessage& m) {
  switch (m.body_case()) {
    case v1::StageMessage::kNodeCall:
      return on_node_call(host_id, ref, m.node_call());
    case v1::StageMessage::kSecretPut:
      return on_secret(host_id, ref, m.secret_put());
    case v1::StageMessage::kLog:
      return on_log(ref, m.log());
    default:
      BP_LOG(debug, "message.dropped", "host={} body={}", host_id,
             static_cast<int>(m.body_case()));
  }
}

// One line of the file per line of the text, each with time and level.
void Hosts::on_log(const core::Attempt& ref, const v1::StageLog& log) {
  const std::string text = redact(log.text().substr(0, kLogTextBytes));
  const std::string stamp =
      std::to_string(world_.clock.wall_ms()) + " " + log.level().substr(0, 8) + " ";
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at)
      world_.logs.append(ref.run_id, ref.stage, stamp + text.substr(at, end - at));
    at = end + 1;
  }
  hooks_.logged(ref.run_id, ref.stage);
}

void Hosts::on_hello(Host& host, const v1::StageMessage& m) {
  const auto& hello = m.hello();
  v1::StageMessage ack;
  ack.mutable_hello_ack();
  if (hello.has_load_error() && !host.result_fed) {
    host.result_fed = true;
    failed(host.ref, Error{error_code_from_name(hello.load_error().code()),
                           hello.load_error().message(), hello.load_error().remedy()});
  } else if (host.plugin_version != 0 && hello.plugin_version() != host.plugin_version &&
             !host.result_fed) {
    host.result_fed = true;
    failed(host.ref, Error{ErrorCode::kPluginLoad,
                           "plugin " + hello.plugin() + " has version " +
                               std::to_string(hello.plugin_version()) + "; the workflow asks for " +
                               std::to_string(host.plugin_version),
                           {}});
  }
  send(host.ref.host_id, host.ref, std::move(ack));
  // With a ref it has its attempt already.
  if (host.may_send && !m.has_ref() && !host.result_fed) send_attempt(host);
}

void Hosts::send_attempt(Host& host) {
  const auto* run = conductor_.find(host.ref.run_id);
  const auto* stage = run ? run->find(host.ref.stage, host.ref.map_index) : nullptr;
  if (!stage || !same_epoch(to_wire(stage->epoch), host.ref.epoch)) return;
  auto attempt = maker_.make(*run, stage->key, /*with_options=*/true);
  if (!attempt.ok()) {
    host.result_fed = true;
    failed(host.ref, attempt.error());
    return world_.processes.kill(host.process);
  }
  host.sent = true;
  v1::StageMessage message;
  *message.mutable_run() = std::move(attempt).value();
  send(host.ref.host_id, host.ref, std::move(message));
}

void Hosts::on_beat(Host& host, const v1::AttemptBeat& beat) {
  if (beat.has_progress()) {
    host.progress = beat.progress();
    if (host.progress->note().size() > 512) host.progress->mutable_note()->resize(512);
    hooks_.changed(host.ref.run_id);
  }
  if (beat.checkpoint().size() > limits::kCheckpointBytes ||
      beat.handle().size() > limits::kCheckpointBytes ||
      bytes_of(beat.outputs()) > limits::kStageOutputBytes) {
    BP_LOG(warn, "beat.too_large", "run={} stage={} checkpoint_bytes={} handle_bytes={}",
           host.ref.run_id, host.ref.stage, beat.checkpoint().size(), beat.handle().size());
    return;
  }
  const bool checkpoint = !beat.checkpoint().empty() && beat.checkpoint() != host.checkpoint;
  const bool handle = !beat.handle().empty() && beat.handle() != host.handle;
  if (checkpoint || handle) {
    v1::Event event;
    auto* e = event.mutable_checkpointed();
    e->set_stage(host.ref.stage);
    e->set_map_index(host.ref.map_index);
    *e->mutable_epoch() = host.ref.epoch;
    if (checkpoint) e->set_checkpoint(host.checkpoint = beat.checkpoint());
    if (handle) e->set_handle(host.handle = beat.handle());
    feed(host.ref.run_id, std::move(event));
  }
  if (!beat.ready() || host.ready_fed) return;
  host.ready_fed = true;
  v1::Event event;
  auto* e = event.mutable_ready();
  e->set_stage(host.ref.stage);
  e->set_map_index(host.ref.map_index);
  *e->mutable_epoch() = host.ref.epoch;
  *e->mutable_outputs() = beat.outputs();
  Extra extra;
  set_beside(e->mutable_outputs(), e->mutable_payloads(), &extra.blobs);
  e->set_handle(beat.handle());
  feed(host.ref.run_id, std::move(event), {}, std::move(extra));
}

void Hosts::on_result(const core::Attempt& ref, const v1::AttemptResult& result) {
  v1::AttemptResult r = result;
  BP_LOG(info, "attempt.ended", "run={} stage={} attempt={} epoch={} outcome={} code={} message={}",
         ref.run_id, ref.stage, ref.attempt, epoch_text(ref.epoch),
         v1::AttemptResult::Outcome_Name(r.outcome()), r.error().code(),
         redact(r.error().message().substr(0, kErrorBytes)));
  Extra extra;
  v1::Event event = ended_event(conductor_.find(ref.run_id), ref.stage, ref.map_index, ref.epoch,
                                std::move(r), &extra.blobs);
  feed(ref.run_id, std::move(event), {}, std::move(extra));
}

void Hosts::on_node_call(const std::string& host_id, const core::Attempt& ref,
                         const v1::NodeCall& call) {
  v1::NodeCommand command = call.command();
  *command.mutable_epoch() = ref.epoch;
  nodes_.call(host_id + "/" + std::to_string(call.call_id()), ref.run_id,
              call.node_id(), std::move(command), call.deadline_ms(),
              [this, id = host_id, ref,
               call_id = call.call_id()](v1::NodeCommandReply r) {
                v1::StageMessage message;
                auto* reply = message.mutable_node_reply();
                reply->set_call_id(call_id);
                r.set_call_id(call_id);
                *reply->mutable_reply() = std::move(r);
                send(id, ref, std::move(message));
              });
}

void Hosts::on_secret(const std::string& host_id, const core::Attempt& ref,
                      const v1::SecretPut& put) {
  if (put.name().empty() || put.name().size() > limits::kNameBytes ||
      put.value().size() > kSecretBytes) {
    BP_LOG(warn, "secret.refused", "run={} stage={} name_bytes={} value_bytes={}", ref.run_id,
           ref.stage, put.name().size(), put.value().size());
    return;
  }
  const auto* run = conductor_.find(ref.run_id);
  if (!run) return;
  Extra extra;
  const std::string sealed = box_.seal(ref.run_id, put.name(), Secret(put.value()));
  extra.secrets.push_back({run->run_number, put.name(), sealed});
  const std::string prefix = NodeRegistry::kKeyPrefix;
  std::string node_id, key;
  if (put.name().starts_with(prefix)) {
    node_id = put.name().substr(prefix.size());
    key = put.value();
  }
  conductor_.write(std::move(extra),
                   [this, id = host_id, ref, name = put.name(), node_id, key] {
                     if (!node_id.empty())
                       nodes_.admit(ref.run_id, node_id, key, /*from_journal=*/false);
                     v1::StageMessage message;
                     message.mutable_secret_put_ack()->set_name(name);
                     send(id, ref, std::move(message));
                   });
}

}  // namespace bp::shell
