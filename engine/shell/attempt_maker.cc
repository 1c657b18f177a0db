#include "engine/shell/attempt_maker.h"

namespace bp::shell {

std::map<std::string, std::string> AttemptMaker::options() const {
  return {
      {"provider", settings_.provider},
      {"device", settings_.device},
      {"state_dir", settings_.state_dir},
      {"run_dir", settings_.run_dir},
      {"cache_dir", settings_.cache_dir},
      {"bin_dir", settings_.bin_dir},
      {"daemon_node_endpoint", settings_.node_endpoint},
      {"daemon_public_key", settings_.node_public_key},
      {"allow_private_stores", settings_.allow_private_stores ? "1" : "0"},
      {"exact", settings_.exact ? "1" : "0"},
      {"trace_mib", settings_.trace_mib},
  };
}

Result<v1::RunAttempt> AttemptMaker::make(const core::RunState& run, core::StageKey key,
                                          bool with_options) const {
  std::vector<core::PayloadRef> payloads;
  v1::RunAttempt attempt = core::run_attempt_message(run, key, &payloads);
  for (const auto& ref : payloads) {
    BP_ASSIGN(auto bytes, world_.journal.blob(ref.hash));
    if (!bytes) {
      return Error{ErrorCode::kJournal, "input " + ref.input + " of " + run.run_id + " is missing",
                   {}};
    }
    (*attempt.mutable_inputs())[ref.input] = *std::move(bytes);
  }
  if (with_options) {
    for (const auto& [name, value] : options()) attempt.mutable_options()->insert({name, value});
  }
  if (!run.definition(key).needs_secrets()) return attempt;
  BP_ASSIGN(auto sealed, world_.journal.secrets_of(run.run_number));
  for (const auto& [name, bytes] : sealed) {
    BP_ASSIGN(auto plain, box_.open(run.run_id, name, bytes));
    (*attempt.mutable_secrets())[name] = plain.reveal();
  }
  return attempt;
}

}  // namespace bp::shell
