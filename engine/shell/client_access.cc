// access: where the head's client port is, and the key that it lets binary clients in with.
#include "bp/v1/recipe.pb.h"
#include "engine/shell/client_api.h"
#include "engine/shell/view.h"

namespace bp::shell {
namespace {
const std::string kClientKey = "client_secret_key";

Result<v1::HeadReady> head_of(const core::RunState& run) {
  for (const auto& stage : run.stages) {
    v1::HeadReady head;
    const auto* value = stage.outputs ? core::find_value(stage.outputs, "head") : nullptr;
    if (value && head.ParseFromString(value->bytes)) return head;
  }
  return Error{ErrorCode::kUnavailable,
               run.name + " is " + state_text(run.state()) + ": it has no head",
               "Wait for it with `bp watch " + run.name + " --until-ready`"};
}
}  // namespace

Result<v1::Access> ClientApi::access_of(const std::string& id_or_name) {
  const auto* run = conductor_.find_live(id_or_name);
  if (!run) {
    BP_ASSIGN(auto ended, conductor_.find_ended(id_or_name));
    return Error{ErrorCode::kUnavailable,
                 ended.name + " has ended: " + state_text(static_cast<v1::RunState>(ended.state)),
                 {}};
  }
  BP_ASSIGN(v1::HeadReady head, head_of(*run));
  BP_ASSIGN(auto sealed, world_.journal.secrets_of(run->run_number));
  auto row = sealed.find(kClientKey);
  if (row == sealed.end() || head.client_public_key().empty()) {
    return Error{
        ErrorCode::kUnsupported, "the head of " + run->name + " takes no binary clients", {}};
  }
  BP_ASSIGN(Secret key, box_.open(run->run_id, kClientKey, row->second));
  v1::Access access;
  access.set_name(run->name);
  access.set_endpoint(head.client_endpoint());
  access.set_head_public_key(head.head_public_key());
  access.set_client_public_key(head.client_public_key());
  access.set_client_secret_key(key.reveal());
  return access;
}

void ClientApi::access(const Asker& to, const v1::AccessQuery& m) {
  conductor_.after_durable([this, to, id = m.id()] {
    auto access = access_of(id);
    if (!access.ok()) return fail(to, access.error());
    v1::ClientReply r;
    *r.mutable_access() = std::move(access).value();
    reply(to, std::move(r));
  });
}

}  // namespace bp::shell
