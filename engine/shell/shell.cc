#include "engine/shell/shell.h"

#include "engine/base/log.h"
#include "engine/shell/client_api.h"
#include "engine/shell/conductor.h"
#include "engine/shell/hosts.h"
#include "engine/shell/nodes.h"
#include "engine/shell/timers.h"
#include "engine/shell/wire.h"

namespace bp::shell {

struct Shell::Impl {
  Impl(World w, Settings s, Hooks h);
  void act(const core::Action& action);
  void act_on(const core::Notify& a) { clients.changed(a.run_id, true); }
  void act_on(const core::RunEnded& a);
  template <class A>
  void act_on(const A& a) {
    hosts.act(a);
  }
  void fire(const storage::TimerRow& row);
  Status admit_nodes();
  void malformed(Channel channel, const Error& e);

  World world;
  Settings settings;
  Hooks hooks;
  SecretBox box;
  Conductor conductor;
  Timers timers;
  NodeRegistry nodes;
  Hosts hosts;
  ClientApi clients;
  int64_t complained_boot_ms = 0;
  uint64_t complaints = 0;
  bool stopped = false;
};

Shell::Impl::Impl(World w, Settings s, Hooks h)
    : world(w),
      settings(std::move(s)),
      hooks(std::move(h)),
      box(settings.secrets_key),
      conductor(world, {[this](const core::Action& a) { act(a); },
                        [this](const auto& put, const auto& drop) { timers.update(put, drop); },
                        [this](Status status) { hooks.fatal(std::move(status)); }}),
      timers(world, [this](const storage::TimerRow& row) { fire(row); }),
      nodes(world, {[this](const std::string& run, const v1::NodeNotice& n) {
                      return hosts.notice(run, n);
                    },
                    [this](const std::string& run) { return hosts.fence(run); },
                    [this](const std::string& run) { clients.changed(run, false); }}),
      hosts(world, settings, conductor, nodes, box,
            {[this](const std::string& run) { clients.changed(run, false); },
             [this](const std::string& run, const std::string& stage) {
               clients.logged(run, stage);
             },
             [this](const std::string& run) {
               // Who waits for a run that has ended waits for this.
               if (!conductor.find(run)) clients.changed(run, true);
             }}),
      clients(world, settings, conductor, hosts, nodes, box,
              {hooks.shutdown, hooks.machine_findings}) {}

void Shell::Impl::act(const core::Action& action) {
  if (stopped) return;
  std::visit([this](const auto& a) { act_on(a); }, action);
}

void Shell::Impl::act_on(const core::RunEnded& a) {
  BP_LOG(info, "run.ended", "run={} state={}", a.run_id, v1::RunState_Name(a.state));
  timers.forget_run(a.run_id);
  nodes.forget_run(a.run_id);  // before anybody is told: an ended run has no nodes
  clients.changed(a.run_id, true);
  clients.run_ended(a.run_id);
  conductor.forget(a.run_id);
}

void Shell::Impl::fire(const storage::TimerRow& row) {
  if (stopped) return;
  const auto* run = conductor.find(row.run_id);
  if (!run) return;
  v1::Event event;
  auto* e = event.mutable_timer_fired();
  e->set_stage(row.stage);
  e->set_map_index(row.map_index);
  e->mutable_epoch()->set_incarnation(run->body.incarnation());
  e->mutable_epoch()->set_counter(row.epoch_counter);
  e->set_kind(static_cast<v1::TimerKind>(row.kind));
  Status fed = conductor.feed(row.run_id, std::move(event));
  if (!fed.ok()) BP_LOG(debug, "event.refused", "run={} why={}", row.run_id, fed.error().message);
}

// Nodes of live runs may dial in as soon as their socket opens.
Status Shell::Impl::admit_nodes() {
  const std::string prefix = NodeRegistry::kKeyPrefix;
  for (const auto& [id, run] : conductor.runs()) {
    BP_ASSIGN(auto sealed, world.store.secrets_of(id));
    for (const auto& [name, bytes] : sealed) {
      if (!name.starts_with(prefix)) continue;
      auto key = box.open(id, name, bytes);
      if (!key.ok()) return std::move(key).error();
      nodes.admit(id, name.substr(prefix.size()), key->reveal(), /*from_journal=*/true);
    }
  }
  return {};
}

void Shell::Impl::malformed(Channel channel, const Error& e) {
  ++complaints;
  const int64_t now = world.clock.boot_ms();
  if (complaints > 1 && now - complained_boot_ms < 1'000) return;
  complained_boot_ms = now;
  BP_LOG(debug, "message.malformed", "channel={} total={} why={}", static_cast<int>(channel),
         complaints, e.message);
}

Shell::Shell(World world, Settings settings, Hooks hooks)
    : impl_(std::make_unique<Impl>(world, std::move(settings), std::move(hooks))) {}
Shell::~Shell() = default;

Status Shell::start() {
  BP_TRY(impl_->conductor.load());
  BP_TRY(impl_->admit_nodes());
  BP_LOG(info, "journal.loaded", "live_runs={}", impl_->conductor.runs().size());
  impl_->conductor.recover(impl_->settings.boot_id);
  return {};
}

void Shell::stop() {
  impl_->stopped = true;
  impl_->conductor.halt();
}

void Shell::on_message(Channel channel, const bus::Peer& peer, std::string_view payload) {
  if (impl_->stopped) return;
  if (channel == Channel::kClients) {
    auto m = bus::parse<v1::ClientRequest>(payload);
    return m.ok() ? impl_->clients.on_request(peer, *m) : impl_->malformed(channel, m.error());
  }
  if (channel == Channel::kStages) {
    auto m = bus::parse<v1::StageBatch>(payload);
    return m.ok() ? impl_->hosts.on_message(peer, *m) : impl_->malformed(channel, m.error());
  }
  auto m = bus::parse<v1::NodeMessage>(payload);
  return m.ok() ? impl_->nodes.on_message(peer, *m) : impl_->malformed(channel, m.error());
}

void Shell::on_unreachable(Channel channel, const std::string& routing_id) {
  if (channel == Channel::kClients) impl_->clients.unreachable(routing_id);
}

const std::map<std::string, core::RunState>& Shell::runs() const { return impl_->conductor.runs(); }

}  // namespace bp::shell
