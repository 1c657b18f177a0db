#include "engine/stage_host/result_check.h"

#include <google/protobuf/arena.h>

#include "bp/v1/stage.pb.h"
#include "engine/base/limits.h"

namespace bp::stage_host {

void fill(v1::ErrorInfo* out, const Error& e) {
  out->set_code(std::string(error_name(e.code)));
  out->set_message(e.message);
  out->set_remedy(std::string(e.what_to_do()));
}

std::string failed_result(const Error& error) {
  v1::AttemptResult result;
  result.set_outcome(v1::AttemptResult::FAILED);
  fill(result.mutable_error(), error);
  return result.SerializeAsString();
}

std::optional<Error> result_fault(bp_bytes bytes) {
  const std::string size = std::to_string(bytes.size) + " bytes";
  if (bytes.size > limits::kMessageBytes / 2) {
    return Error{ErrorCode::kTooLarge, "the result has " + size + ", at most " +
                                           std::to_string(limits::kMessageBytes / 2) + " are sent", {}};
  }
  google::protobuf::Arena arena;
  auto* result = google::protobuf::Arena::CreateMessage<v1::AttemptResult>(&arena);
  if (!result->ParseFromArray(bytes.data, static_cast<int>(bytes.size))) {
    return Error{ErrorCode::kProtocol, "the result is no valid AttemptResult (" + size + ")", {}};
  }
  if (result->outcome() == v1::AttemptResult::OUTCOME_UNSPECIFIED ||
      !v1::AttemptResult::Outcome_IsValid(result->outcome())) {
    return Error{ErrorCode::kProtocol, "the result (" + size + ") has no outcome that this host knows", {}};
  }
  if (bytes.size <= limits::kStageOutputBytes) return std::nullopt;
  for (const auto& [name, value] : result->outputs()) {
    if (value.size() <= limits::kStageOutputBytes) continue;
    return Error{ErrorCode::kTooLarge, "stage output \"" + name + "\" has " + std::to_string(value.size()) +
                                           " bytes, at most " + std::to_string(limits::kStageOutputBytes) +
                                           " are kept", {}};
  }
  return std::nullopt;
}

Error broken_plugin(const char* name, const std::string& threw) {
  return Error{ErrorCode::kPluginCrash,
               std::string("plugin ") + name +
                   (threw.empty() ? " returned without a result" : " let an exception escape: " + threw), {}};
}

}  // namespace bp::stage_host
