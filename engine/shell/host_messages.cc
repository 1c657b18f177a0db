// What stage hosts say, and what they are told.
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/shell/host.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

constexpr size_t kLogTextBytes = 16 << 10;
constexpr size_t kErrorBytes = 8 << 10;
constexpr size_t kSecretBytes = 64 << 10;

template <class Outputs>
size_t bytes_of(const Outputs& outputs) {
  size_t n = 0;
  for (const auto& [k, v] : outputs) n += k.size() + v.size();
  return n;
}

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
    strangers_[{ref.run_id, ref.stage, ref.map_index, ref.epoch.counter()}] = peer.routing_id;
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
    const auto* d = run ? core::stage_definition(*run, host.ref.stage) : nullptr;
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
    case v1::StageMessage::kNodeCall:
      return on_node_call(host, m.node_call());
    case v1::StageMessage::kSecretPut:
      return on_secret(host, m.secret_put());
    case v1::StageMessage::kResult:
      if (host.acknowledged) {
        v1::StageMessage ack;
        ack.mutable_result_ack();
        return send(host.ref.host_id, host.ref, std::move(ack));
      }
      if (host.result_fed) return;  // its commit is under way
      host.result_fed = true;
      return on_result(host.ref, m.result());
    case v1::StageMessage::kLog:
      return on_log(host, m.log());
    default:
      BP_LOG(debug, "message.dropped", "host={} body={}", host.ref.host_id,
             static_cast<int>(m.body_case()));
  }
}

// One line of the file per line of the text, each with time and level.
void Hosts::on_log(Host& host, const v1::StageLog& log) {
  const std::string text = redact(log.text().substr(0, kLogTextBytes));
  const std::string stamp =
      std::to_string(world_.clock.wall_ms()) + " " + log.level().substr(0, 8) + " ";
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (end > at)
      world_.logs.append(host.ref.run_id, host.ref.stage, stamp + text.substr(at, end - at));
    at = end + 1;
  }
  hooks_.logged(host.ref.run_id, host.ref.stage);
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

std::map<std::string, std::string> Hosts::options_of(const core::RunState& run) const {
  std::map<std::string, std::string> o{
      {"provider", settings_.provider},
      {"device", settings_.device},
      {"state_dir", settings_.state_dir},
      {"run_dir", settings_.run_dir},
      {"cache_dir", settings_.cache_dir},
      {"bin_dir", settings_.bin_dir},
      {"daemon_node_endpoint", settings_.node_endpoint},
      {"daemon_public_key", settings_.node_public_key},
      {"allow_private_stores", settings_.allow_private_stores ? "1" : "0"},
      {"exact", settings_.exact ? "1" : "0"},
      {"trace_mib", settings_.trace_mib},
  };
  for (const auto& [k, v] : run.body.options()) o[k] = v;
  return o;
}

Status Hosts::add_secrets(const core::RunState& run, v1::RunAttempt* attempt) {
  BP_ASSIGN(auto sealed, world_.store.secrets_of(run.run_id));
  for (const auto& [name, bytes] : sealed) {
    BP_ASSIGN(auto plain, box_.open(run.run_id, name, bytes));
    (*attempt->mutable_secrets())[name] = plain.reveal();
  }
  return {};
}

void Hosts::send_attempt(Host& host) {
  const auto* run = conductor_.find(host.ref.run_id);
  if (!run) return;
  const core::StageKey key{host.ref.stage, host.ref.map_index};
  auto it = run->stages.find(key);
  if (it == run->stages.end() || !same_epoch(it->second.body.epoch(), host.ref.epoch)) return;
  v1::RunAttempt attempt = core::run_attempt_message(*run, key);
  for (const auto& [k, v] : options_of(*run)) attempt.mutable_options()->insert({k, v});
  const auto* definition = core::stage_definition(*run, host.ref.stage);
  if (definition && definition->needs_secrets()) {
    Status added = add_secrets(*run, &attempt);
    if (!added.ok()) {
      host.result_fed = true;
      failed(host.ref, added.error());
      return world_.processes.kill(host.process);
    }
  }
  host.sent = true;
  v1::StageMessage message;
  *message.mutable_run() = std::move(attempt);
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
  e->set_handle(beat.handle());
  feed(host.ref.run_id, std::move(event));
}

void Hosts::on_result(const core::Attempt& ref, const v1::AttemptResult& result) {
  v1::Event event;
  auto* e = event.mutable_ended();
  e->set_stage(ref.stage);
  e->set_map_index(ref.map_index);
  *e->mutable_epoch() = ref.epoch;
  e->set_succeeded(result.outcome() == v1::AttemptResult::SUCCEEDED);
  e->set_cancelled(result.outcome() == v1::AttemptResult::CANCELLED);
  e->set_needs_human(result.outcome() == v1::AttemptResult::NEEDS_HUMAN);
  if (result.has_error()) {
    *e->mutable_error() = result.error();
    std::string message = redact(result.error().message().substr(0, kErrorBytes));
    const auto* run = conductor_.find(ref.run_id);
    const auto* definition = run ? core::stage_definition(*run, ref.stage) : nullptr;
    if (definition && result.error().code() == error_name(ErrorCode::kPluginCrash)) {
      message.insert(0, "plugin " + definition->plugin() + ": ");
    }
    e->mutable_error()->set_message(message);
    e->set_retriable(error_retriable(error_code_from_name(result.error().code())));
  }
  if (bytes_of(result.outputs()) > limits::kStageOutputBytes ||
      result.handle().size() > limits::kCheckpointBytes) {
    e->set_succeeded(false);
    *e->mutable_error() = to_wire(Error{
        ErrorCode::kTooLarge,
        "outputs of stage " + ref.stage + " have " + std::to_string(bytes_of(result.outputs())) +
            " bytes; at most " + std::to_string(limits::kStageOutputBytes),
        {}});
  } else {
    *e->mutable_outputs() = result.outputs();
    e->set_handle(result.handle());
  }
  e->set_rewind_to_stage(result.rewind_to_stage());
  *e->mutable_survivors() = result.survivors();
  BP_LOG(info, "attempt.ended", "run={} stage={} attempt={} epoch={} outcome={} code={} message={}",
         ref.run_id, ref.stage, ref.attempt, epoch_text(ref.epoch),
         v1::AttemptResult::Outcome_Name(result.outcome()), result.error().code(),
         e->error().message());
  feed(ref.run_id, std::move(event));
}

void Hosts::on_node_call(Host& host, const v1::NodeCall& call) {
  v1::NodeCommand command = call.command();
  *command.mutable_epoch() = host.ref.epoch;
  nodes_.call(host.ref.host_id + "/" + std::to_string(call.call_id()), host.ref.run_id,
              call.node_id(), std::move(command), call.deadline_ms(),
              [this, id = host.ref.host_id, ref = host.ref,
               call_id = call.call_id()](v1::NodeCommandReply r) {
                v1::StageMessage message;
                auto* reply = message.mutable_node_reply();
                reply->set_call_id(call_id);
                r.set_call_id(call_id);
                *reply->mutable_reply() = std::move(r);
                send(id, ref, std::move(message));
              });
}

void Hosts::on_secret(Host& host, const v1::SecretPut& put) {
  if (put.name().empty() || put.name().size() > limits::kNameBytes ||
      put.value().size() > kSecretBytes) {
    BP_LOG(warn, "secret.refused", "run={} stage={} name_bytes={} value_bytes={}", host.ref.run_id,
           host.ref.stage, put.name().size(), put.value().size());
    return;
  }
  if (!conductor_.find(host.ref.run_id)) return;
  Extra extra;
  const std::string sealed = box_.seal(host.ref.run_id, put.name(), Secret(put.value()));
  extra.secrets.push_back({host.ref.run_id, put.name(), sealed});
  const std::string prefix = NodeRegistry::kKeyPrefix;
  std::string node_id, key;
  if (put.name().starts_with(prefix)) {
    node_id = put.name().substr(prefix.size());
    key = put.value();
  }
  conductor_.write(std::move(extra),
                   [this, id = host.ref.host_id, ref = host.ref, name = put.name(), node_id, key] {
                     if (!node_id.empty())
                       nodes_.admit(ref.run_id, node_id, key, /*from_journal=*/false);
                     v1::StageMessage message;
                     message.mutable_secret_put_ack()->set_name(name);
                     send(id, ref, std::move(message));
                   });
}

}  // namespace bp::shell
