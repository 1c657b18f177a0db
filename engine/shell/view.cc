#include "engine/shell/view.h"

#include <algorithm>

#include "bp/v1/recipe.pb.h"
#include "engine/base/ids.h"
#include "engine/plan/deployment_plan.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

// Value of a named output of whichever stage has it.
template <class Message>
bool output(const core::RunState& run, const std::string& name, Message* out) {
  for (const auto& stage : run.stages) {
    const auto* value = stage.outputs ? core::find_value(stage.outputs, name) : nullptr;
    if (value && !value->is_blob && out->ParseFromString(value->bytes)) return true;
  }
  return false;
}

int32_t label(const v1::ProcessStatus& p, const char* name) {
  auto it = p.labels().find(name);
  if (it == p.labels().end() || it->second.empty() || it->second.size() > 6) return -1;
  for (char c : it->second) {
    if (c < '0' || c > '9') return -1;
  }
  return std::stoi(it->second);
}

bool is_busy(v1::StageState s) {
  return s == v1::STAGE_STATE_QUEUED || s == v1::STAGE_STATE_RUNNING ||
         s == v1::STAGE_STATE_READY || s == v1::STAGE_STATE_BACKOFF ||
         s == v1::STAGE_STATE_CANCELLING;
}

void add_stages(const ViewInputs& in, v1::RunView* view) {
  std::string last_done;
  for (const auto& stage : in.run.stages) {
    const std::string& name = in.run.stage_name(stage.key);
    auto* s = view->add_stages();
    s->set_name(name);
    s->set_state(stage.state);
    s->set_attempt(stage.attempt);
    s->set_attempts_total(stage.attempts_total);
    s->set_generation(stage.generation);
    *s->mutable_epoch() = to_wire(stage.epoch);
    s->set_started_wall_ms(stage.started_wall_ms);
    s->set_ended_wall_ms(stage.ended_wall_ms);
    if (const auto* progress = in.progress ? in.progress(stage) : nullptr)
      *s->mutable_progress() = *progress;
    if (const auto* error = stage.error()) *s->mutable_error() = *error;
    if (const auto* process = stage.process()) *s->mutable_host() = *process;
    if (const auto* timer = in.run.timer(stage.key, v1::TIMER_KIND_RETRY)) {
      s->set_retry_in_ms(std::max<int64_t>(
          0, timer->frozen ? timer->left_ms : timer->due_boot_ms - in.boot_ms));
    }
    if (is_busy(stage.state) && view->current_stage().empty()) view->set_current_stage(name);
    if (stage.state != v1::STAGE_STATE_PENDING) last_done = name;
  }
  if (view->current_stage().empty()) view->set_current_stage(last_done);
}

void add_nodes(const ViewInputs& in, v1::RunView* view) {
  static constexpr const char* kStates[] = {"awaited", "up", "lost"};
  v1::NodePool pool;
  const bool has_pool = output(in.run, "pool", &pool);
  for (const Node* node : in.nodes) {
    auto* n = view->add_nodes();
    n->set_node_id(node->node_id);
    n->set_address(node->address);
    n->set_state(kStates[static_cast<int>(node->state)]);
    *n->mutable_agent() = node->agent;
    for (int i = 0; has_pool && i < pool.nodes_size(); ++i) {
      const auto& planned = pool.nodes(i);
      if (planned.node_id() != node->node_id) continue;
      n->set_index(planned.index());
      if (n->address().empty()) n->set_address(planned.address());
      if (node->agent.pid() == 0) *n->mutable_agent() = planned.agent();
    }
    for (const auto& [key, p] : node->processes) {
      auto* out = view->add_processes();
      out->set_role(p.role() == v1::PROCESS_ROLE_HEAD ? "head" : "rank");
      *out->mutable_identity() = p.identity();
      out->set_node_id(node->node_id);
      out->set_tp_rank(label(p, "tp_rank"));
      out->set_pp_rank(label(p, "pp_rank"));
      *out->mutable_epoch() = p.epoch();
      out->set_process_key(key);
    }
  }
  std::sort(view->mutable_nodes()->begin(), view->mutable_nodes()->end(),
            [](const auto& a, const auto& b) { return a.index() < b.index(); });
}

void add_endpoints(const core::RunState& run, v1::RunView* view) {
  v1::DeploymentPlan plan;
  v1::Recipe recipe;
  if (output(run, "plan", &plan)) {
    view->set_model(plan.model().name());
    view->set_stand_in(plan.stand_in());
  }
  const auto* input = run.input("recipe");
  if (input && !input->is_blob) view->set_recipe_digest(sha256_hex(input->bytes));
  if (view->stand_in().empty() && input && recipe.ParseFromString(input->bytes)) {
    const std::string* device = run.option("device");
    view->set_stand_in(plan::stand_in_text(device ? *device : "cpu", recipe.node_shape()));
    if (view->model().empty()) view->set_model(recipe.model_path());
  }
  v1::HeadReady head;
  if (core::is_ended(run.state()) || !output(run, "head", &head)) return;
  view->set_dashboard_url(head.dashboard_url());
  view->set_metrics_url(head.metrics_url());
  view->set_client_endpoint(head.client_endpoint());
  v1::EndpointReady endpoint;
  if (run.state() == v1::RUN_STATE_SERVING && output(run, "endpoint", &endpoint))
    view->set_endpoint(endpoint.url());
}

}  // namespace

v1::RunView make_view(const ViewInputs& in) {
  const core::RunState& run = in.run;
  v1::RunView view;
  view.set_id(run.run_id);
  view.set_name(run.name);
  view.set_state(run.state());
  view.mutable_epoch()->set_incarnation(run.n.incarnation);
  view.mutable_epoch()->set_counter(run.n.epoch_counter);
  view.set_created_wall_ms(run.n.created_wall_ms);
  view.set_updated_wall_ms(run.n.updated_wall_ms);
  view.set_serving_wall_ms(run.n.first_serving_wall_ms);
  if (const auto* error = run.error()) *view.mutable_error() = *error;
  for (const auto& survivor : run.rarely().survivors) view.add_survivors(survivor);
  view.set_recoveries(run.n.rewinds_total);
  view.set_waiting_for(core::why(run));
  view.set_last_event(run.n.run_seq);
  add_stages(in, &view);
  add_nodes(in, &view);
  add_endpoints(run, &view);
  return view;
}

v1::RunView make_view(const storage::EndedRow& row) {
  v1::RunView view;
  view.set_id(row.run_id);
  view.set_name(row.name);
  view.set_state(static_cast<v1::RunState>(row.state));
  view.set_created_wall_ms(row.created_wall_ms);
  view.set_updated_wall_ms(row.ended_wall_ms);
  if (!row.error_code.empty()) view.mutable_error()->set_code(row.error_code);
  return view;
}

std::string state_text(v1::RunState state) {
  std::string text = v1::RunState_Name(state);
  if (text.starts_with("RUN_STATE_")) text.erase(0, 10);
  for (char& c : text)
    c = c == '_' ? ' ' : static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return text;
}

}  // namespace bp::shell
