// Frames of every socket: the first byte chooses the kind. What parses survives a second trip
// unchanged.
#include <google/protobuf/stubs/logging.h>

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "bp/v1/control.pb.h"
#include "bp/v1/node.pb.h"
#include "bp/v1/rank.pb.h"
#include "bp/v1/stage.pb.h"
#include "engine/bus/bus.h"

namespace {

template <class Message>
void round_trip(std::string_view payload) {
  const auto first = bp::bus::parse<Message>(payload);
  if (!first.ok()) {
    if (first.error().code != bp::ErrorCode::kProtocol) std::abort();
    return;
  }
  // Maps have no order of their own, hence the comparison of lengths after a second trip.
  const std::string once = first->SerializeAsString();
  const auto second = bp::bus::parse<Message>(once);
  if (!second.ok() || second->ByteSizeLong() != once.size()) std::abort();
  (void)second->ShortDebugString();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto kQuiet = google::protobuf::SetLogHandler(nullptr);  // it reports each bad UTF-8
  (void)kQuiet;
  if (size == 0) return 0;
  const std::string_view payload(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 7) {
    case 0:
      round_trip<bp::v1::NodeMessage>(payload);
      break;
    case 1:
      round_trip<bp::v1::StageBatch>(payload);
      break;
    case 2:
      round_trip<bp::v1::ClientRequest>(payload);
      break;
    case 3:
      round_trip<bp::v1::ClientReply>(payload);
      break;
    case 4:
      round_trip<bp::v1::RankMessage>(payload);
      break;
    case 5:
      round_trip<bp::v1::HeadRequest>(payload);
      break;
    default:
      round_trip<bp::v1::HeadReply>(payload);
      break;
  }
  return 0;
}
