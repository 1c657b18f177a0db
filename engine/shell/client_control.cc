// cancel, retry, stop: each idempotent by the state that it leads to, and by its key where it is
// not.
#include "engine/base/limits.h"
#include "engine/shell/client_api.h"
#include "engine/shell/view.h"

namespace bp::shell {
namespace {
const std::string kRetryKey = "retry-key/";
}

void ClientApi::accept(const Asker& to, const std::string& run_id) {
  auto v = view(run_id);
  v1::ClientReply r;
  r.mutable_accepted()->set_run_id(run_id);
  if (v.ok()) r.mutable_accepted()->set_state(v->state());
  reply(to, std::move(r));
}

void ClientApi::cancel(const Asker& to, const bus::Peer& peer, const v1::CancelRun& m) {
  conductor_.after_durable([this, to, m, user = peer.user] {
    const auto* run = conductor_.find_live(m.id());
    if (!run) {
      auto ended = conductor_.find_ended(m.id());
      if (!ended.ok()) return fail(to, ended.error());
      if (ended->state == v1::RUN_STATE_CANCELLED) return accept(to, ended->run_id);
      return fail(
          to,
          Error{ErrorCode::kConflict,
                ended->name + " has ended: " + state_text(static_cast<v1::RunState>(ended->state)),
                {}});
    }
    v1::Event event;
    event.mutable_cancel_requested()->set_by(user);
    event.mutable_cancel_requested()->set_reason(m.reason().substr(0, 512));
    const std::string id = run->run_id;
    Status fed = conductor_.feed(id, std::move(event), [this, to, id] { accept(to, id); });
    if (!fed.ok()) fail(to, fed.error());
  });
}

void ClientApi::stop(const Asker& to, const bus::Peer& peer, const v1::StopRun& m) {
  conductor_.after_durable([this, to, m, user = peer.user] {
    std::string id;
    if (const auto* run = conductor_.find_live(m.id())) {
      id = run->run_id;
    } else {
      auto ended = conductor_.find_ended(m.id());
      if (!ended.ok()) return fail(to, ended.error());
      id = ended->run_id;
      if (ended->state == v1::RUN_STATE_STOPPED || ended->state == v1::RUN_STATE_CANCELLED)
        return accept(to, id);
      if (Status revived = conductor_.revive(id); !revived.ok()) return fail(to, revived.error());
    }
    v1::Event event;
    event.mutable_stop_requested()->set_by(user);
    Status fed = conductor_.feed(id, std::move(event), [this, to, id] { accept(to, id); });
    if (fed.ok()) return;
    conductor_.forget(id);
    fail(to, fed.error());
  });
}

bool ClientApi::same_retry(const std::string& run_id, const std::string& key) const {
  auto it = conductor_.meta().find(kRetryKey + run_id);
  return it != conductor_.meta().end() && it->second == key;
}

void ClientApi::retry(const Asker& to, const bus::Peer& peer, const v1::RetryRun& m) {
  conductor_.after_durable([this, to, m, user = peer.user] {
    std::string id;
    if (const auto* run = conductor_.find_live(m.id())) {
      id = run->run_id;
    } else {
      auto ended = conductor_.find_ended(m.id());
      if (!ended.ok()) return fail(to, ended.error());
      id = ended->run_id;
      if (const auto* other = conductor_.find_live(ended->name)) {
        return fail(to, Error{ErrorCode::kAlreadyExists,
                              "deployment " + ended->name + " runs as " + other->run_id,
                              {}});
      }
    }
    if (m.idempotency_key().size() > limits::kNameBytes) {
      return fail(to, Error{ErrorCode::kInvalidArgument, "the idempotency key is too long", {}});
    }
    if (!m.idempotency_key().empty() && same_retry(id, m.idempotency_key())) return accept(to, id);
    if (Status revived = conductor_.revive(id); !revived.ok()) return fail(to, revived.error());
    v1::Event event;
    event.mutable_retry_requested()->set_by(user);
    Extra extra;
    if (!m.idempotency_key().empty()) extra.meta[kRetryKey + id] = m.idempotency_key();
    Status fed = conductor_.feed(
        id, std::move(event), [this, to, id] { accept(to, id); }, std::move(extra));
    if (fed.ok()) return;
    conductor_.forget(id);
    fail(to, fed.error());
  });
}

}  // namespace bp::shell
