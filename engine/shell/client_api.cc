#include "engine/shell/client_api.h"

#include "engine/base/log.h"
#include "engine/shell/run_filter.h"
#include "engine/shell/view.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {
constexpr int64_t kProgressPauseMs = 100;
constexpr size_t kStreamsMax = 1'000;
}  // namespace

ClientApi::ClientApi(World& world, const Settings& settings, Conductor& conductor, Hosts& hosts,
                     SharedHosts& shared, NodeRegistry& nodes, const SecretBox& box,
                     WorkflowRegistry& workflows, EngineApi& engine, Hooks hooks)
    : world_(world),
      settings_(settings),
      conductor_(conductor),
      hosts_(hosts),
      shared_(shared),
      nodes_(nodes),
      box_(box),
      workflows_(workflows),
      engine_(engine),
      hooks_(std::move(hooks)),
      admission_(settings.admit_active),
      started_wall_ms_(world.clock.wall_ms()) {}

ClientApi::~ClientApi() {
  *alive_ = false;
  for (auto& [run, timer] : soon_) world_.executor.cancel(timer);
}

void ClientApi::reply(const Asker& to, v1::ClientReply r, bool final) {
  r.set_request_id(to.request_id);
  r.set_final(final);
  world_.transport.send(Channel::kClients, to.routing_id, r.SerializeAsString());
}

void ClientApi::fail(const Asker& to, const Error& e) {
  v1::ClientReply r;
  *r.mutable_error() = to_wire(e);
  reply(to, std::move(r));
}

void ClientApi::on_request(const bus::Peer& peer, const v1::ClientRequest& m) {
  const Asker to{peer.routing_id, m.request_id()};
  if (m.protocol() != kControlProtocol && m.what_case() != v1::ClientRequest::kPing) {
    return fail(to, Error{ErrorCode::kProtocol,
                          "client speaks protocol " + std::to_string(m.protocol()) +
                              ", this daemon " + std::to_string(kControlProtocol),
                          {}});
  }
  switch (m.what_case()) {
    case v1::ClientRequest::kPing:
      return ping(to);
    case v1::ClientRequest::kSubmit:
      return submit(to, peer, m.submit());
    case v1::ClientRequest::kPlan:
      return plan(to, m.plan());
    case v1::ClientRequest::kList:
      return list(to, m.list());
    case v1::ClientRequest::kShow:
      return show(to, m.show());
    case v1::ClientRequest::kWatch:
      return watch(to, m.watch());
    case v1::ClientRequest::kLogs:
      return logs(to, m.logs());
    case v1::ClientRequest::kCancel:
      return cancel(to, peer, m.cancel());
    case v1::ClientRequest::kRetry:
      return retry(to, peer, m.retry());
    case v1::ClientRequest::kStop:
      return stop(to, peer, m.stop());
    case v1::ClientRequest::kSubmitRuns:
      return submit_runs(to, peer, m.submit_runs());
    case v1::ClientRequest::kWatchEnds:
      return watch_ends(to, m.watch_ends());
    case v1::ClientRequest::kAccess:
      return access(to, m.access());
    case v1::ClientRequest::kDoctor:
      return doctor(to, m.doctor());
    case v1::ClientRequest::kShutdown: {
      if (!settings_.embedded) {
        return fail(to, Error{ErrorCode::kConflict, "this daemon runs as a service",
                              "Use systemctl stop bp-daemon"});
      }
      v1::ClientReply r;
      r.mutable_accepted();
      reply(to, std::move(r));
      return hooks_.shutdown();
    }
    default: {
      const auto answer = [this, alive = alive_, to](v1::ClientReply r, bool final) {
        if (*alive) reply(to, std::move(r), final);
      };
      if (engine_.handle(m, peer.user, answer)) return;
      return fail(
          to,
          Error{ErrorCode::kProtocol, "the request asks for nothing that this daemon knows", {}});
    }
  }
}

void ClientApi::ping(const Asker& to) {
  v1::ClientReply r;
  auto* p = r.mutable_pong();
  p->set_version(settings_.version);
  p->set_protocol(kControlProtocol);
  *p->mutable_daemon() = to_wire(settings_.self);
  p->set_state_dir(settings_.state_dir);
  p->set_embedded(settings_.embedded);
  p->set_started_wall_ms(started_wall_ms_);
  reply(to, std::move(r));
}

const v1::Progress* ClientApi::progress_of(const core::RunState& run,
                                           const core::StageInstance& stage) const {
  if (const auto* p = shared_.progress(run, stage)) return p;
  return hosts_.progress(run.run_id, run.stage_name(stage.key), stage.key.map_index);
}

v1::RunView ClientApi::view_of(const core::RunState& run) {
  v1::RunView v = make_view(
      ViewInputs{run, nodes_.nodes_of(run.run_id),
                 [&](const core::StageInstance& stage) { return progress_of(run, stage); },
                 world_.clock.boot_ms()});
  // The last stage's host gives its result before it exits: until then something is left of the
  // run.
  const ProcessId* host = core::is_ended(run.state()) ? hosts_.left(run.run_id) : nullptr;
  if (host) {
    v.set_state(v1::RUN_STATE_STOPPING);
    v.set_waiting_for("the stage host with pid " + std::to_string(host->pid) +
                      ", which is exiting");
  }
  return v;
}

Result<core::RunState> ClientApi::load(const std::string& id_or_name) {
  BP_ASSIGN(auto row, conductor_.find_ended(id_or_name));
  return conductor_.rebuild(row.run_number, row.last_commit);
}

Result<v1::RunView> ClientApi::view(const std::string& id_or_name) {
  if (const auto* run = conductor_.find_live(id_or_name)) return view_of(*run);
  BP_ASSIGN(auto run, load(id_or_name));
  return view_of(run);
}

void ClientApi::list(const Asker& to, const v1::ListRuns& m) {
  conductor_.after_durable([this, to, m] {
    v1::ClientReply r;
    Status listed = list_into(m, r.mutable_list());
    if (!listed.ok()) return fail(to, listed.error());
    reply(to, std::move(r));
  });
}

// Live runs first, then ended ones, each newest first; a page goes on below the last run number.
Status ClientApi::list_into(const v1::ListRuns& m, v1::RunList* list) {
  const uint32_t limit = m.limit() == 0 ? 1000 : std::min(m.limit(), 10'000u);
  std::vector<const core::RunState*> live;
  std::map<int, uint64_t> counts;
  conductor_.each_run([&](const core::RunState& run) {
    if (core::is_ended(run.state())) return;
    ++counts[run.state()];
    if (m.before_run_number() == 0 && matches(m.filter(), run)) live.push_back(&run);
  });
  for (size_t i = live.size(); i > 0 && live.size() - i < limit; --i)
    *list->add_runs() = view_of(*live[i - 1]);
  if (m.all()) {
    BP_ASSIGN(auto ended, world_.journal.ended_counts());
    for (const auto& [state, n] : ended) counts[state] += n;
  }
  for (const auto& [state, n] : counts) {
    auto* c = list->add_counts();
    c->set_state(v1::RunState(state));
    c->set_count(n);
  }
  if (!m.all() || !may_match_ended(m.filter()) || live.size() >= limit) return {};
  storage::EndedQuery query = ended_query(m.filter());
  query.before_run_number = m.before_run_number();
  query.limit = limit - static_cast<uint32_t>(live.size());
  BP_ASSIGN(auto rows, conductor_.ended(query));
  for (const auto& row : rows) *list->add_runs() = make_view(row);
  if (rows.size() == query.limit) list->set_next_before_run_number(rows.back().run_number);
  return {};
}

void ClientApi::show(const Asker& to, const v1::ShowRun& m) {
  conductor_.after_durable([this, to, m] {
    const Moment moment{m.at_event(), m.at_wall_ms()};
    auto v = moment.event == 0 && moment.wall_ms == 0 ? view(m.id()) : view_then(m.id(), moment);
    if (!v.ok()) return fail(to, v.error());
    v1::ClientReply r;
    *r.mutable_run() = std::move(v).value();
    reply(to, std::move(r));
  });
}

// Nodes and progress are not on record: what is shown of then is what the core knew.
Result<v1::RunView> ClientApi::view_then(const std::string& id, Moment moment) {
  BP_ASSIGN(auto run, engine_.state(id, moment));
  return make_view(ViewInputs{
      run, {}, [](const core::StageInstance&) { return nullptr; }, run.n.updated_boot_ms});
}

void ClientApi::watch(const Asker& to, const v1::WatchRun& m) {
  conductor_.after_durable([this, to, m] {
    auto v = view(m.id());
    if (!v.ok()) return fail(to, v.error());
    if (watches_.size() >= kStreamsMax) {
      return fail(to, Error{ErrorCode::kUnavailable,
                            "too many watchers (" + std::to_string(kStreamsMax) + ")",
                            {}});
    }
    Watch w{v->id(), m.until_ready(), 0};
    if (!tell_watch(to, w)) watches_[to] = w;
  });
}

// True when the stream has ended.
bool ClientApi::tell_watch(const Asker& to, Watch& w) {
  auto v = view(w.run_id);
  if (!v.ok()) {
    fail(to, v.error());
    return true;
  }
  const bool ended = core::is_ended(v->state()) || v->state() == v1::RUN_STATE_NEEDS_HUMAN ||
                     (w.until_ready && v->state() == v1::RUN_STATE_SERVING);
  v1::ClientReply r;
  *r.mutable_run() = std::move(v).value();
  reply(to, std::move(r), ended);
  return ended;
}

void ClientApi::tell(const std::string& run_id) {
  for (auto it = watches_.begin(); it != watches_.end();) {
    const bool ended = it->second.run_id == run_id && tell_watch(it->first, it->second);
    it = ended ? watches_.erase(it) : std::next(it);
  }
}

void ClientApi::changed(const std::string& run_id, bool at_once) {
  auto it = soon_.find(run_id);
  if (at_once) {
    if (it != soon_.end()) {
      world_.executor.cancel(it->second);
      soon_.erase(it);
    }
    return tell(run_id);
  }
  if (it != soon_.end() || watches_.empty()) return;
  soon_[run_id] = world_.executor.after(kProgressPauseMs, [this, run_id] {
    soon_.erase(run_id);
    conductor_.after_durable([this, run_id] { tell(run_id); });
  });
}

void ClientApi::unreachable(const std::string& routing_id) {
  std::erase_if(watches_, [&](const auto& w) { return w.first.routing_id == routing_id; });
  std::erase_if(ends_, [&](const auto& e) { return e.first.routing_id == routing_id; });
  std::erase_if(tails_, [&](const auto& t) { return t.first.routing_id == routing_id; });
}

}  // namespace bp::shell
