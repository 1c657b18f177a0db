#include "engine/shell/stage_events.h"

#include "engine/base/limits.h"
#include "engine/base/secret.h"
#include "engine/shell/wire.h"

namespace bp::shell {
namespace {
constexpr size_t kErrorBytes = 8 << 10;
}

const v1::StageDefinition* definition_of(const core::RunState& run, const std::string& stage) {
  if (!run.workflow) return nullptr;
  auto index = run.workflow->find(stage);
  return index ? &run.workflow->stage(*index) : nullptr;
}

v1::Event ended_event(const core::RunState* run, const std::string& stage, uint32_t map_index,
                      const v1::Epoch& epoch, v1::AttemptResult&& result,
                      std::map<std::string, std::string>* blobs) {
  v1::Event event;
  auto* e = event.mutable_ended();
  e->set_stage(stage);
  e->set_map_index(map_index);
  *e->mutable_epoch() = epoch;
  e->set_succeeded(result.outcome() == v1::AttemptResult::SUCCEEDED);
  e->set_cancelled(result.outcome() == v1::AttemptResult::CANCELLED);
  e->set_needs_human(result.outcome() == v1::AttemptResult::NEEDS_HUMAN);
  if (result.has_error()) {
    e->mutable_error()->Swap(result.mutable_error());
    std::string message = redact(e->error().message().substr(0, kErrorBytes));
    const auto* definition = run ? definition_of(*run, stage) : nullptr;
    if (definition && e->error().code() == error_name(ErrorCode::kPluginCrash)) {
      message.insert(0, "plugin " + definition->plugin() + ": ");
    }
    e->set_retriable(error_retriable(error_code_from_name(e->error().code())));
    e->mutable_error()->set_message(std::move(message));
  }
  if (bytes_of(result.outputs()) > limits::kStageOutputBytes ||
      result.handle().size() > limits::kCheckpointBytes) {
    e->set_succeeded(false);
    *e->mutable_error() = to_wire(
        Error{ErrorCode::kTooLarge,
              "outputs of stage " + stage + " have " + std::to_string(bytes_of(result.outputs())) +
                  " bytes; at most " + std::to_string(limits::kStageOutputBytes),
              {}});
  } else {
    e->mutable_outputs()->swap(*result.mutable_outputs());
    set_beside(e->mutable_outputs(), e->mutable_payloads(), blobs);
    if (!result.handle().empty()) e->mutable_handle()->swap(*result.mutable_handle());
  }
  e->set_rewind_to_stage(result.rewind_to_stage());
  e->mutable_survivors()->Swap(result.mutable_survivors());
  return event;
}

}  // namespace bp::shell
