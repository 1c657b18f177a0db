// submit and plan: a recipe is parsed and checked before anything is acknowledged.
#include "engine/base/ids.h"
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/plan/deployment_plan.h"
#include "engine/plan/recipe.h"
#include "engine/shell/client_api.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {

Result<plan::ParsedRecipe> parse(const std::string& json) {
  if (json.size() > limits::kRecipeBytes) {
    return Error{ErrorCode::kTooLarge,
                 "the recipe has " + std::to_string(json.size()) + " bytes; at most " +
                     std::to_string(limits::kRecipeBytes),
                 {}};
  }
  return plan::parse_recipe(json);
}

Error invalid(const std::vector<v1::Problem>& problems) {
  return Error{ErrorCode::kInvalidRecipe, plan::format_problems(problems), {}};
}

}  // namespace

void ClientApi::plan(const Asker& to, const v1::PlanQuery& m) {
  auto parsed = parse(m.recipe_json());
  if (!parsed.ok()) return fail(to, parsed.error());
  v1::ClientReply r;
  auto* out = r.mutable_plan();
  if (!parsed->ok()) {
    for (const auto& p : parsed->problems) *out->add_problems() = p;
    out->set_text(plan::format_problems(parsed->problems));
    return reply(to, std::move(r));
  }
  *out->mutable_plan() =
      plan::outline_plan(parsed->recipe, m.provider().empty() ? settings_.provider : m.provider(),
                         m.device().empty() ? settings_.device : m.device());
  out->set_text(plan::format_plan(parsed->recipe, out->plan()));
  reply(to, std::move(r));
}

// A repeated submit gets the run that the first one made. True: answered.
bool ClientApi::answer_existing(const Asker& to, const v1::Submit& m, const v1::Recipe& recipe) {
  if (m.idempotency_key().empty()) return false;
  auto row = conductor_.find_key(m.idempotency_key());
  if (!row.ok()) {
    fail(to, row.error());
    return true;
  }
  if (!row->has_value()) return false;
  core::RunState loaded;
  const core::RunState* found = conductor_.find((*row)->run_id);
  if (!found) {
    auto run = conductor_.rebuild((*row)->run_number, (*row)->last_commit);
    if (!run.ok()) {
      fail(to, run.error());
      return true;
    }
    loaded = std::move(run).value();
    found = &loaded;
  }
  v1::Recipe before;
  const auto* input = found->input("recipe");
  if (!input || !before.ParseFromString(input->bytes) ||
      before.SerializeAsString() != recipe.SerializeAsString()) {
    fail(to, Error{ErrorCode::kConflict,
                   "idempotency key \"" + m.idempotency_key() +
                       "\" was used for another recipe, by " + found->run_id,
                   "Use a new key for a new recipe"});
    return true;
  }
  conductor_.after_durable([this, to, run_id = found->run_id, name = found->name] {
    v1::ClientReply r;
    r.mutable_submitted()->set_run_id(run_id);
    r.mutable_submitted()->set_name(name);
    r.mutable_submitted()->set_existed(true);
    reply(to, std::move(r));
  });
  return true;
}

void ClientApi::submit(const Asker& to, const bus::Peer& peer, const v1::Submit& m) {
  if (m.idempotency_key().size() > limits::kNameBytes) {
    return fail(
        to, Error{ErrorCode::kInvalidArgument,
                  "idempotency key has more than " + std::to_string(limits::kNameBytes) + " bytes",
                  {}});
  }
  auto parsed = parse(m.recipe_json());
  if (!parsed.ok()) return fail(to, parsed.error());
  if (!parsed->ok()) {
    v1::ClientReply r;
    *r.mutable_error() = to_wire(invalid(parsed->problems));
    for (const auto& p : parsed->problems) *r.mutable_error()->add_problems() = p;
    return reply(to, std::move(r));
  }
  if (answer_existing(to, m, parsed->recipe)) return;
  auto workflow = workflows_.find(m.workflow(), 0);
  if (!workflow.ok()) return fail(to, workflow.error());
  const std::string& name = parsed->recipe.canonical_name();
  if (const auto* run = conductor_.find_live(name)) {
    return fail(
        to,
        Error{ErrorCode::kAlreadyExists, "deployment " + name + " exists as " + run->run_id, {}});
  }
  v1::RunSubmitted s;
  s.set_run_id(conductor_.next_run_id());
  s.set_name(name);
  s.set_idempotency_key(m.idempotency_key());
  (*s.mutable_inputs())["recipe"] = parsed->recipe.SerializeAsString();
  auto& options = *s.mutable_options();
  options["provider"] = m.provider().empty() ? settings_.provider : m.provider();
  options["device"] = m.device().empty() ? settings_.device : m.device();
  s.set_submitter(peer.user);
  Extra extra;
  for (const auto& [secret, value] : parsed->secrets) {
    extra.secrets.push_back(
        {conductor_.next_run_number(), secret, box_.seal(s.run_id(), secret, value)});
  }
  v1::ClientReply r;
  r.mutable_submitted()->set_run_id(s.run_id());
  r.mutable_submitted()->set_name(name);
  r.mutable_submitted()->set_stand_in(
      plan::stand_in_text(options["device"], parsed->recipe.node_shape()));
  BP_LOG(info, "run.submitted", "run={} name={} shape={} nodes={} by={}", s.run_id(), name,
         parsed->recipe.node_shape(), parsed->recipe.node_pool_size(), peer.user);
  Status done = conductor_.submit(
      std::move(s), *workflow, [this, to, r] { reply(to, r); }, std::move(extra));
  if (!done.ok()) fail(to, done.error());
}

}  // namespace bp::shell
