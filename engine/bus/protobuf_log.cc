#include <google/protobuf/stubs/logging.h>

#include "engine/base/log.h"
#include "engine/bus/bus.h"

namespace bp::bus {

void quiet_protobuf() {
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& text) {
        BP_LOG(debug, "protobuf.says", "{}", text);
      });
}

}  // namespace bp::bus
