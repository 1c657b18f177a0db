// doctor: the machine, the journal and every live deployment, each finding with what to do about
// it.
#include "engine/shell/client_api.h"
#include "engine/shell/view.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

constexpr uint32_t kReplaySlice = 50;  // runs per turn: some milliseconds
constexpr const char* kReport = "Keep a copy of the state folder and report this";

v1::DoctorFinding finding(const char* level, const char* check, std::string text,
                          std::string remedy = {}, std::string run_id = {}) {
  v1::DoctorFinding f;
  f.set_level(level);
  f.set_check(check);
  f.set_text(std::move(text));
  f.set_remedy(std::move(remedy));
  f.set_run_id(std::move(run_id));
  return f;
}
}  // namespace

// Applies every event of every live run again, from nothing, and compares with what the run is.
std::vector<std::string> ClientApi::replay() {
  std::vector<std::string> wrong;
  conductor_.each_run([&](const core::RunState& run) {
    auto again = conductor_.rebuild(run.run_number, run.last_commit);
    if (!again.ok()) {
      wrong.push_back("run " + run.run_id + ": " + again.error().message);
      return;
    }
    if (core::encode_run(*again) == core::encode_run(run)) return;
    wrong.push_back("run " + run.run_id + ": replay of " + std::to_string(again->n.run_seq) +
                    " events gives " + state_text(again->state()) + " at epoch " +
                    std::to_string(again->n.epoch_counter) + ", the journal says " +
                    state_text(run.state()) + " at " + std::to_string(run.n.epoch_counter));
  });
  return wrong;
}

// What the deployment is on record to run on this machine, against what lives.
std::vector<v1::DoctorFinding> ClientApi::processes_of(const core::RunState& run) {
  std::vector<v1::DoctorFinding> out;
  const std::string boot = settings_.boot_id;
  uint32_t alive = 0;
  auto look = [&](const v1::ProcessIdentity& p, const std::string& what,
                  const std::string& mender) {
    if (p.pid() <= 0 || p.boot_id() != boot) return;  // on another machine: its node answers for it
    if (world_.processes.alive(from_wire(p))) {
      ++alive;
      return;
    }
    out.push_back(
        finding("error", "process",
                what + " of " + run.name + ", pid " + std::to_string(p.pid()) + ", is not there",
                mender, run.run_id));
  };
  for (const auto& stage : run.stages) {
    if (core::has_live_attempt(stage) && stage.process())
      look(*stage.process(), "the stage host of " + run.stage_name(stage.key),
           "The daemon starts the next attempt; `bp show " + run.name + "` tells when");
  }
  for (const Node* node : nodes_.nodes_of(run.run_id)) {
    look(node->agent, "bp-node " + node->node_id, "The running stage starts a successor");
    for (const auto& [key, p] : node->processes) {
      look(p.identity(), key + " on " + node->node_id,
           "The running stage starts it again; `bp logs " + run.name + " --process " + key +
               "` tells why it ended");
    }
  }
  if (out.empty())
    out.push_back(finding("ok", "processes",
                          std::to_string(alive) + " processes of " + run.name + " are there", {},
                          run.run_id));
  return out;
}

// The journal as a whole is checked on its own thread, and runs are replayed in slices: the daemon
// works meanwhile.
void ClientApi::doctor(const Asker& to, const v1::DoctorQuery& m) {
  conductor_.after_durable([this, to, m] {
    if (!m.id().empty()) return replay_one(to, m.id());
    if (hooks_.machine_findings) {
      for (auto& f : hooks_.machine_findings()) say(to, std::move(f));
    }
    v1::ClientRequest check;
    check.mutable_journal_task()->mutable_check()->set_chain(true);
    engine_.handle(check, {}, [this, alive = alive_, to, m](v1::ClientReply r, bool) {
      if (!*alive) return;
      journal_findings(to, r);
      conductor_.each_run([&](const core::RunState& run) { run_findings(to, run); });
      if (!m.replay()) return reply(to, v1::ClientReply());
      auto wrong = replay();
      for (const auto& w : wrong) say(to, finding("error", "replay", w, kReport));
      replay_ended(to, 0, 0, wrong.size());
    });
  });
}

void ClientApi::say(const Asker& to, v1::DoctorFinding f) {
  v1::ClientReply r;
  *r.mutable_finding() = std::move(f);
  reply(to, std::move(r), false);
}

void ClientApi::journal_findings(const Asker& to, const v1::ClientReply& r) {
  if (r.has_error())
    return say(to, finding("error", "journal", r.error().message(), r.error().remedy()));
  for (const auto& line : r.journal_task().findings())
    say(to, finding("error", "journal", line, kReport));
  if (r.journal_task().findings().empty()) {
    say(to, finding("ok", "journal",
                    "chain and invariants hold over " +
                        std::to_string(r.journal_task().progress().done()) + " commits"));
  }
}

void ClientApi::run_findings(const Asker& to, const core::RunState& run) {
  const std::string& id = run.run_id;
  const bool human = run.state() == v1::RUN_STATE_NEEDS_HUMAN;
  const char* level = run.state() == v1::RUN_STATE_SERVING ? "ok" : human ? "error" : "warn";
  say(to, finding(level, "deployment",
                  run.name + " is " + state_text(run.state()) + ". " + core::why(run),
                  human ? std::string(error_remedy(ErrorCode::kNeedsHuman)) : std::string(), id));
  for (const auto& line : core::broken_invariants(run))
    say(to, finding("error", "invariant", line, kReport, id));
  for (auto& f : processes_of(run)) say(to, std::move(f));
  for (const Node* node : nodes_.nodes_of(id)) {
    if (node->state == NodeState::kUp) continue;
    say(to,
        finding("warn", "node",
                "node " + node->node_id + " of " + run.name +
                    (node->state == NodeState::kLost ? " is lost" : " has not connected"),
                "See STATE_DIR/nodes/" + node->node_id + "; the running stage replaces it", id));
  }
}

// A page of ended runs, the newest first, per turn of the loop.
void ClientApi::replay_ended(const Asker& to, uint64_t before, uint64_t done, uint64_t wrong) {
  storage::EndedQuery page;
  page.before_run_number = before;
  page.limit = kReplaySlice;
  auto rows = conductor_.ended(page);
  if (!rows.ok()) {
    say(to, finding("error", "replay", rows.error().message, kReport));
    return reply(to, v1::ClientReply());
  }
  for (const auto& row : *rows) {
    const std::string difference = ended_difference(row);
    if (difference.empty()) continue;
    ++wrong;
    say(to,
        finding("error", "replay", "run " + row.run_id + ": " + difference, kReport, row.run_id));
  }
  done += rows->size();
  if (rows->size() < kReplaySlice) {
    if (wrong == 0) {
      say(to, finding("ok", "replay",
                      "events of " + std::to_string(conductor_.live_count()) + " live and " +
                          std::to_string(done) + " ended runs lead to the state on record"));
    }
    return reply(to, v1::ClientReply());
  }
  world_.executor.post([this, alive = alive_, to, last = rows->back().run_number, done, wrong] {
    if (*alive) replay_ended(to, last, done, wrong);
  });
}

std::string ClientApi::ended_difference(const storage::EndedRow& row) {
  auto again = conductor_.rebuild(row.run_number, row.last_commit);
  if (!again.ok()) return again.error().message;
  const storage::EndedRow mine = core::ended_row(*again);
  if (mine.state != row.state)
    return "ended as " + state_text(v1::RunState(row.state)) + ", by its events " +
           state_text(v1::RunState(mine.state));
  if (mine.error_code != row.error_code || mine.ended_wall_ms != row.ended_wall_ms ||
      mine.labels != row.labels || mine.workflow != row.workflow)
    return "its summary differs from its events";
  return {};
}

void ClientApi::replay_one(const Asker& to, const std::string& id) {
  std::string difference;
  if (const auto* run = conductor_.find_live(id)) {
    auto again = conductor_.rebuild(run->run_number, run->last_commit);
    if (!again.ok()) {
      difference = again.error().message;
    } else if (core::encode_run(*again) != core::encode_run(*run)) {
      difference = "its state differs from its events";
    }
  } else {
    auto row = conductor_.find_ended(id);
    if (!row.ok()) return fail(to, row.error());
    difference = ended_difference(*row);
  }
  say(to, difference.empty() ? finding("ok", "replay", id + ": events lead to the state on record")
                             : finding("error", "replay", id + ": " + difference, kReport, id));
  reply(to, v1::ClientReply());
}

}  // namespace bp::shell
