// Forks: a run that begins in the middle of another one. What the stages before its beginning have
// put out is taken over. Their handles are never inherited: a stage whose handle is owned runs
// again, any other handle is borrowed, and its owner's teardown waits until no borrower is left.
#include <algorithm>
#include <map>
#include <set>

#include "engine/core/step.h"

namespace bp::core {
namespace {

constexpr size_t kBorrowersMax = 1'000;

bool through(const StageInstance& s) {
  return s.state == v1::STAGE_STATE_SUCCEEDED || s.state == v1::STAGE_STATE_READY;
}

Error conflict(std::string text) { return {ErrorCode::kConflict, std::move(text), {}}; }
Error invalid(std::string text) { return {ErrorCode::kInvalidArgument, std::move(text), {}}; }

// Whether the fork may take the stage over: it comes before the beginning, is the same on both
// sides, what it made may be used by two, and all that comes before it is taken, too.
bool takes(const RunState& state, const Workflow& onto, StageIndex mine, StageIndex theirs,
           StageIndex begin, const std::set<StageIndex>& taken) {
  if (theirs == begin || onto.is_later(begin, theirs)) return false;
  const v1::StageDefinition& d = onto.stage(theirs);
  if (d.keeps_running() || onto.mapped(theirs) != state.workflow->mapped(mine)) return false;
  for (StageIndex before : onto.before(theirs)) {
    if (!taken.count(before)) return false;
  }
  const bool owns = d.owns_handle() || state.workflow->stage(mine).owns_handle();
  for (const StageInstance& s : state.stages) {
    if (s.key.stage != mine || s.surplus) continue;
    if (!through(s) || (owns && !s.handle().empty())) return false;
  }
  return true;
}

v1::TakenStage taken_stage(const RunState& state, const StageInstance& s) {
  v1::TakenStage t;
  t.set_stage(state.stage_name(s.key));
  t.set_map_index(s.key.map_index);
  if (s.outputs) {
    for (const Value& v : *s.outputs)
      (*(v.is_blob ? t.mutable_payloads() : t.mutable_outputs()))[v.name] = v.bytes;
  }
  if (s.item) t.set_item(s.item->front().bytes);
  if (!s.handle().empty()) {
    t.set_handle(s.handle());
    t.set_lender(s.rarely().lender.empty() ? state.run_id : s.rarely().lender);
  }
  return t;
}

// In the order of the graph: a stage comes after all that it waits for.
std::vector<StageIndex> in_order(const Workflow& w) {
  std::vector<StageIndex> order;
  for (size_t i = 0; i < w.size(); ++i) order.push_back(static_cast<StageIndex>(i));
  std::stable_sort(order.begin(), order.end(), [&](StageIndex a, StageIndex b) {
    return w.earlier(a).size() < w.earlier(b).size();
  });
  return order;
}

}  // namespace

Result<v1::ForkOrigin> fork_origin(const RunState& state, const std::string& from_stage,
                                   const Workflow& onto) {
  const auto begin = onto.find(from_stage);
  if (!begin) return invalid("workflow " + onto.name() + " has no stage \"" + from_stage + "\"");
  v1::ForkOrigin origin;
  origin.set_run_id(state.run_id);
  origin.set_at_event(state.n.run_seq);
  origin.set_from_stage(from_stage);
  std::set<StageIndex> taken;
  for (StageIndex theirs : in_order(onto)) {
    const auto mine = state.workflow->find(onto.stage(theirs).name());
    if (!mine || !takes(state, onto, *mine, theirs, *begin, taken)) continue;
    taken.insert(theirs);
    const bool nothing = state.find(StageKey{*mine, 0})->surplus;
    if (nothing) {
      v1::TakenStage* t = origin.add_taken();
      t->set_stage(onto.stage(theirs).name());
      t->set_empty_map(true);
    }
    for (const StageInstance& s : state.stages) {
      if (s.key.stage == *mine && !s.surplus) *origin.add_taken() = taken_stage(state, s);
    }
  }
  return origin;
}

Status check_fork(const Workflow& w, const v1::ForkOrigin& origin) {
  if (origin.taken().empty()) return {};
  std::map<StageIndex, uint32_t> counts;
  for (const v1::TakenStage& t : origin.taken()) {
    const auto stage = w.find(t.stage());
    if (!stage) return invalid("fork: no stage \"" + t.stage() + "\" to take over");
    if (t.map_index() != counts[*stage]++ || (t.map_index() > 0 && !w.mapped(*stage)))
      return invalid("fork: instances of stage " + t.stage() + " are not dense");
    if (t.empty_map() && (!w.mapped(*stage) || t.map_index() != 0 || !t.handle().empty()))
      return invalid("fork: stage " + t.stage() + " has no instances, or it has");
    if (t.handle().empty() != t.lender().empty())
      return invalid("fork: a handle of stage " + t.stage() + " needs a lender");
    if (!t.handle().empty() && w.stage(*stage).owns_handle())
      return invalid("fork: stage " + t.stage() + " owns its handle and must run again");
    if (w.stage(*stage).keeps_running())
      return invalid("fork: stage " + t.stage() + " keeps running and cannot be taken over");
  }
  for (const auto& [stage, count] : counts) {
    for (StageIndex before : w.before(stage)) {
      if (!counts.count(before)) {
        return invalid("fork: stage " + w.stage(stage).name() + " is taken over, but not " +
                       w.stage(before).name() + " before it");
      }
    }
  }
  return {};
}

void take_over(Step& step, const v1::ForkOrigin& origin) {
  for (const v1::TakenStage& t : origin.taken()) {
    const StageIndex stage = *step.run.workflow->find(t.stage());
    const StageKey key{stage, t.map_index()};
    if (!step.run.find(key)) {
      StageInstance more;
      more.key = key;
      more.saved_at = step.run.applied;
      step.insert_stage(std::move(more));
    }
    StageInstance& s = step.stage(key);
    s.state = v1::STAGE_STATE_SUCCEEDED;
    s.outputs = to_values(t.outputs(), t.payloads());
    if (step.run.workflow->mapped(stage)) {
      s.expanded = true;
      s.surplus = t.empty_map();
    }
    if (s.surplus) {
      s.state = v1::STAGE_STATE_SKIPPED;
    } else if (s.expanded) {
      s.item = std::make_shared<const Values>(Values{{"item", t.item(), false}});
    }
    if (t.handle().empty()) continue;
    step.rare(key).handle = t.handle();
    step.rare(key).lender = t.lender();
  }
}

void return_handle(Step& step, StageKey key) {
  StageInstance::Rare& rare = step.rare(key);
  step.act(ReturnHandle{rare.lender, step.run.stage_name(key), key.map_index, step.run.run_id});
  rare.lender.clear();
  rare.handle.clear();
}

void on_handle_lent(Step& step, const v1::HandleLent& e) {
  const StageInstance* s = step.find(e.stage(), e.map_index());
  const RunState& run = step.run;
  auto refuse = [&](const std::string& why) {
    step.out.accepted =
        conflict(run.name + " cannot lend what stage " + e.stage() + " made: " + why);
  };
  if (!s) return refuse("there is no such stage");
  const auto& borrowers = s->rarely().borrowers;
  if (std::find(borrowers.begin(), borrowers.end(), e.borrower()) != borrowers.end()) return;
  if (e.borrower().empty() || e.borrower() == run.run_id) return refuse("nobody asks for it");
  if (!through(*s) || s->mode != v1::ATTEMPT_MODE_APPLY || s->handle().empty())
    return refuse("it is not there");
  if (step.definition(s->key).owns_handle()) return refuse("it can be used by one run only");
  if (!s->rarely().lender.empty()) return refuse("it has borrowed it itself");
  const v1::RunState phase = run.n.phase;
  if (phase == v1::RUN_STATE_STOPPING || phase == v1::RUN_STATE_NEEDS_HUMAN)
    return refuse("the run is ending");
  if (borrowers.size() >= kBorrowersMax) return refuse("too many runs use it");
  step.rare(s->key).borrowers.push_back(e.borrower());
}

void on_handle_returned(Step& step, const v1::HandleReturned& e) {
  const StageInstance* s = step.find(e.stage(), e.map_index());
  if (!s) return;
  const auto& known = s->rarely().borrowers;
  if (std::find(known.begin(), known.end(), e.borrower()) == known.end()) return;
  std::erase(step.rare(s->key).borrowers, e.borrower());
}

}  // namespace bp::core
