#include "engine/shell/shell.h"

#include "engine/base/log.h"
#include "engine/shell/attempt_maker.h"
#include "engine/shell/client_api.h"
#include "engine/shell/conductor.h"
#include "engine/shell/dispatcher.h"
#include "engine/shell/engine_api.h"
#include "engine/shell/hosts.h"
#include "engine/shell/nodes.h"
#include "engine/shell/shared_hosts.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

constexpr const char* kLimitPrefix = "limit/";

// Nodes belong to stages that keep secrets; runs of tiny stages need not be asked.
bool may_have_nodes(const core::RunState& run) {
  for (const auto& d : run.workflow->definition().stages()) {
    if (d.needs_secrets()) return true;
  }
  return false;
}
}  // namespace

struct Shell::Impl {
  Impl(World w, Settings s, Hooks h);
  void act(const core::Action& action);
  void act_on(const core::DispatchAttempt& a) { dispatcher.act(a); }
  void act_on(const core::StartHost& a) { hosts.act(a); }
  void act_on(const core::SendAttempt& a) { hosts.act(a); }
  void act_on(const core::SendShared& a) { shared.act(a); }
  void act_on(const core::ReturnHandle& a) {
    give_back(a.lender, a.stage, a.map_index, a.borrower);
  }
  void act_on(const core::CheckBorrower& a) {
    if (!conductor.find_live(a.borrower)) give_back(a.lender, a.stage, a.map_index, a.borrower);
  }
  template <class A>
  void act_on(const A& a) {
    a.ref.shared ? shared.act(a) : hosts.act(a);
  }
  void give_back(const std::string& lender, const std::string& stage, uint32_t map_index,
                 const std::string& borrower);
  void admit(const core::DispatchAttempt& a);
  void changed(const core::RunState& run);
  void ended(const storage::EndedRow& row);
  EngineApi::Hooks engine_hooks();
  std::map<std::string, double> metrics() const;
  Status load_limits();
  Status admit_nodes();
  void malformed(Channel channel, const Error& e);

  World world;
  Settings settings;
  Hooks hooks;
  SecretBox box;
  AttemptMaker maker;
  Conductor conductor;
  NodeRegistry nodes;
  Hosts hosts;
  SharedHosts shared;
  Dispatcher dispatcher;
  WorkflowRegistry workflows;
  EngineApi engine;
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
      maker(world, settings, box),
      conductor(world,
                {[this](const core::Action& a) { act(a); },
                 [this](const core::RunState& run) { changed(run); },
                 [this](const storage::EndedRow& row) { ended(row); },
                 [this](Status status) { hooks.fatal(std::move(status)); },
                 [this] { return !dispatcher.paused() && shared.has_room(); }},
                settings.boot_id, settings.mark),
      nodes(world, {[this](const std::string& run, const v1::NodeNotice& n) {
                      return hosts.notice(run, n);
                    },
                    [this](const std::string& run) { return hosts.fence(run); },
                    [this](const std::string& run) { clients.changed(run, false); }}),
      hosts(
          world, settings, conductor, nodes, maker, box,
          {[this](const std::string& run) { clients.changed(run, false); },
           [this](const std::string& run, const std::string& stage) { clients.logged(run, stage); },
           [this](const std::string& run) {
             // Who waits for a run that has ended waits for this.
             if (!conductor.find(run)) clients.changed(run, true);
           }}),
      shared(world, conductor, maker,
             {[this](const std::string& run) { clients.changed(run, false); },
              [this](const std::string& host_id, const core::Attempt& ref,
                     const v1::StageMessage& m) { hosts.on_call(host_id, ref, m); }}),
      dispatcher(world, conductor,
                 {[this](const core::DispatchAttempt& a) { admit(a); },
                  [this] { return shared.has_room(); }, [this] { return hosts.size(); }}),
      workflows(conductor),
      engine(world, conductor, workflows, engine_hooks()),
      clients(world, settings, conductor, hosts, shared, nodes, box, workflows, engine,
              {hooks.shutdown, hooks.machine_findings}) {
  dispatcher.pause(settings.start_paused);
}

// Starts that a schedule asks for go the way of all others.
EngineApi::Hooks Shell::Impl::engine_hooks() {
  EngineApi::Hooks h;
  h.schedules.start = [this](const v1::NewRun& run, const std::string& schedule,
                             const auto& extra) -> Result<std::string> {
    auto started = clients.start_run("schedule " + schedule, run, schedule, extra);
    if (!started.run_id().empty()) return started.run_id();
    return Error{error_code_from_name(started.error_code()), started.error_message(), {}};
  };
  h.schedules.cancel = [this](const std::string& run_id, const std::string& why) {
    v1::Event event;
    event.mutable_cancel_requested()->set_by("schedule");
    event.mutable_cancel_requested()->set_reason(why);
    return conductor.feed(run_id, std::move(event));
  };
  h.put_limit = [this](const v1::Limit& limit, std::function<void()> durable) {
    Extra extra;
    if (limit.concurrency() == 0 && limit.rate_per_s() == 0) {
      extra.drop_meta.push_back(kLimitPrefix + limit.key());
    } else {
      extra.meta[kLimitPrefix + limit.key()] = limit.SerializeAsString();
    }
    dispatcher.set_limit(limit);
    conductor.write(std::move(extra), std::move(durable));
    return Status();
  };
  h.limits = [this] { return dispatcher.limits(); };
  h.pause_dispatch = [this](bool paused, std::function<void()> durable) {
    dispatcher.pause(paused);
    conductor.after_durable(std::move(durable));
  };
  h.metrics = [this] { return metrics(); };
  h.journal_task = [this](const v1::JournalTask& task, EngineApi::RunPlace place,
                          EngineApi::TaskReport report) -> Status {
    if (hooks.journal_task) return hooks.journal_task(task, place, std::move(report));
    if (task.has_check()) {
      BP_ASSIGN(auto lines, world.journal.check({}));
      v1::JournalTaskProgress found;
      for (auto& line : lines) found.add_findings(std::move(line));
      report(std::move(found));
      return {};
    }
    return Error{ErrorCode::kUnavailable, "this journal has no files to work on", {}};
  };
  return h;
}

std::map<std::string, double> Shell::Impl::metrics() const {
  const auto& c = conductor.counters();
  return {{"bp_runs_live", double(conductor.live_count())},
          {"bp_runs_ended_total", double(c.runs_ended)},
          {"bp_runs_quarantined_total", double(c.quarantined)},
          {"bp_journal_events_total", double(c.events)},
          {"bp_journal_commits_total", double(c.commits)},
          {"bp_dispatch_waiting", double(dispatcher.waiting())},
          {"bp_dispatch_paused", dispatcher.paused() ? 1.0 : 0.0},
          {"bp_stage_hosts", double(hosts.size())}};
}

Status Shell::Impl::load_limits() {
  const std::string prefix = kLimitPrefix;
  const auto& meta = conductor.meta();
  for (auto it = meta.lower_bound(prefix); it != meta.end() && it->first.starts_with(prefix);
       ++it) {
    v1::Limit limit;
    if (!limit.ParseFromString(it->second))
      return Error{ErrorCode::kJournal, "meta " + it->first + " cannot be read", {}};
    dispatcher.set_limit(limit);
  }
  return {};
}

void Shell::Impl::act(const core::Action& action) {
  if (stopped) return;
  std::visit([this](const auto& a) { act_on(a); }, action);
}

void Shell::Impl::admit(const core::DispatchAttempt& a) {
  if (!a.ref.shared) return hosts.dispatch(a);
  v1::Event event;
  auto* e = event.mutable_dispatched();
  e->set_stage(a.ref.stage);
  e->set_map_index(a.ref.map_index);
  e->set_attempt(a.ref.attempt);
  *e->mutable_epoch() = a.ref.epoch;
  Status fed = conductor.feed(a.ref.run_number, std::move(event));
  if (!fed.ok()) BP_LOG(debug, "event.refused", "run={} why={}", a.ref.run_id, fed.error().message);
}

void Shell::Impl::give_back(const std::string& lender, const std::string& stage, uint32_t map_index,
                            const std::string& borrower) {
  v1::Event event;
  auto* e = event.mutable_handle_returned();
  e->set_stage(stage);
  e->set_map_index(map_index);
  e->set_borrower(borrower);
  Status fed = conductor.feed(lender, std::move(event));
  if (!fed.ok()) BP_LOG(debug, "event.refused", "run={} why={}", lender, fed.error().message);
}

void Shell::Impl::changed(const core::RunState& run) {
  dispatcher.changed(run);
  clients.changed(run.run_id, true);
}

void Shell::Impl::ended(const storage::EndedRow& row) {
  BP_LOG(debug, "run.ended", "run={} state={}", row.run_id, row.state);
  dispatcher.ended(row.run_number);
  nodes.forget_run(row.run_id);  // before anybody is told: an ended run has no nodes
  clients.changed(row.run_id, true);
  clients.run_ended(row.run_id);
  clients.ended(row);
  engine.run_ended(row.run_id);
}

// Nodes of live runs may dial in as soon as their socket opens.
Status Shell::Impl::admit_nodes() {
  const std::string prefix = NodeRegistry::kKeyPrefix;
  Status status;
  conductor.each_run([&](const core::RunState& run) {
    if (!status.ok() || !may_have_nodes(run)) return;
    auto sealed = world.journal.secrets_of(run.run_number);
    if (!sealed.ok()) {
      status = std::move(sealed).error();
      return;
    }
    for (const auto& [name, bytes] : *sealed) {
      if (!name.starts_with(prefix)) continue;
      auto key = box.open(run.run_id, name, bytes);
      if (!key.ok()) {
        status = std::move(key).error();
        return;
      }
      nodes.admit(run.run_id, name.substr(prefix.size()), key->reveal(), /*from_journal=*/true);
    }
  });
  return status;
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
  BP_TRY(impl_->workflows.load(impl_->settings.workflows, impl_->world.clock.wall_ms()));
  BP_TRY(impl_->engine.load());
  BP_TRY(impl_->load_limits());
  BP_TRY(impl_->admit_nodes());
  const size_t live = impl_->conductor.live_count();
  BP_LOG(info, "journal.loaded", "live_runs={}", live);
  impl_->dispatcher.start();
  impl_->shared.start();
  impl_->conductor.recover([this, live] {
    if (live == 0) return;
    BP_LOG(info, "recovery.durable", "live_runs={}", live);
    impl_->shared.recovered();
  });
  impl_->engine.start();
  return {};
}

void Shell::settle(std::function<void()> done) { impl_->conductor.settle(std::move(done)); }

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
    if (!m.ok()) return impl_->malformed(channel, m.error());
    return SharedHosts::is_shared(peer.routing_id) ? impl_->shared.on_message(peer, *m)
                                                   : impl_->hosts.on_message(peer, *m);
  }
  auto m = bus::parse<v1::NodeMessage>(payload);
  return m.ok() ? impl_->nodes.on_message(peer, *m) : impl_->malformed(channel, m.error());
}

void Shell::on_unreachable(Channel channel, const std::string& routing_id) {
  if (channel == Channel::kClients) impl_->clients.unreachable(routing_id);
}

Status Shell::feed(const std::string& run_id, v1::Event event, std::function<void()> durable) {
  return impl_->conductor.feed(run_id, std::move(event), std::move(durable));
}

void Shell::each_run(const std::function<void(const core::RunState&)>& call) const {
  impl_->conductor.each_run(call);
}

}  // namespace bp::shell
