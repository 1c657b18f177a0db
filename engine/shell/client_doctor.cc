// doctor: the machine, the journal and every live deployment, each finding with what to do about
// it.
#include "engine/shell/client_api.h"
#include "engine/shell/view.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {
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

void ClientApi::doctor(const Asker& to, const v1::DoctorQuery& m) {
  conductor_.after_durable([this, to, m] {
    std::vector<v1::DoctorFinding> all;
    if (hooks_.machine_findings) all = hooks_.machine_findings();
    auto violations = world_.journal.check({});
    if (!violations.ok()) {
      all.push_back(finding("error", "journal", violations.error().message,
                            std::string(violations.error().what_to_do())));
    } else if (violations->empty()) {
      all.push_back(finding("ok", "journal", "all invariants hold"));
    } else {
      for (const auto& v : *violations) {
        all.push_back(
            finding("error", "journal", v, "Keep a copy of the state folder and report this"));
      }
    }
    if (m.replay()) {
      auto wrong = replay();
      if (wrong.empty())
        all.push_back(finding("ok", "replay", "events lead to the state on record"));
      for (const auto& w : wrong)
        all.push_back(
            finding("error", "replay", w, "Keep a copy of the state folder and report this"));
    }
    conductor_.each_run([&](const core::RunState& run) {
      const std::string& id = run.run_id;
      const char* level = run.state() == v1::RUN_STATE_SERVING ? "ok" : "warn";
      if (run.state() == v1::RUN_STATE_NEEDS_HUMAN) level = "error";
      std::string remedy = run.state() == v1::RUN_STATE_NEEDS_HUMAN
                               ? std::string(error_remedy(ErrorCode::kNeedsHuman))
                               : std::string();
      all.push_back(finding(level, "deployment",
                            run.name + " is " + state_text(run.state()) + ". " + core::why(run),
                            remedy, id));
      for (auto& f : processes_of(run)) all.push_back(std::move(f));
      for (const Node* node : nodes_.nodes_of(id)) {
        if (node->state != NodeState::kUp) {
          all.push_back(finding(
              "warn", "node",
              "node " + node->node_id + " of " + run.name +
                  (node->state == NodeState::kLost ? " is lost" : " has not connected"),
              "See STATE_DIR/nodes/" + node->node_id + "; the running stage replaces it", id));
        }
      }
    });
    for (auto& f : all) {
      v1::ClientReply r;
      *r.mutable_finding() = std::move(f);
      reply(to, std::move(r), false);
    }
    reply(to, v1::ClientReply());
  });
}

}  // namespace bp::shell
