// Protocol messages as JSON for scripts: snake_case names, enums as lower-case words without their
// prefix, 64-bit integers as numbers, every field present, unset messages null. Processes also get
// `pid` and `node`.
#pragma once
#include <google/protobuf/message.h>

#include <string>

#include "bp/v1/common.pb.h"
#include "engine/base/error.h"

namespace bp::cli {

/// One line, without the newline.
std::string to_json(const google::protobuf::Message& message);
/// {"error": {code, message, remedy, problems}}. `info`'s problems are kept when it is not null.
std::string error_json(const Error& error, const v1::ErrorInfo* info);
/// "serving" of RUN_STATE_SERVING, "running" of STAGE_STATE_RUNNING.
std::string enum_word(const google::protobuf::EnumValueDescriptor* value);

}  // namespace bp::cli
