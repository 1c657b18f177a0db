#include "engine/shell/history_view.h"

#include <google/protobuf/util/json_util.h>

#include "bp/v1/journal.pb.h"

namespace bp::shell {
namespace {

constexpr size_t kJsonBytes = 16 << 10;  // of one event's body

const char* actor_name(storage::Actor a) {
  switch (a) {
    case storage::Actor::kNobody:
      return "nobody";
    case storage::Actor::kDaemon:
      return "daemon";
    case storage::Actor::kStageHost:
      return "stage host";
    case storage::Actor::kTimer:
      return "timer";
    case storage::Actor::kSignal:
      return "signal";
    case storage::Actor::kPerson:
      return "person";
    case storage::Actor::kApplications:
      return "applications";
  }
  return "unknown";
}

}  // namespace

v1::HistoryEntry history_entry(const storage::Entry& e, bool body) {
  v1::HistoryEntry out;
  out.set_event(e.run_seq);
  out.set_wall_ms(e.wall_ms);
  out.set_next(std::string("next: ") + actor_name(e.next.actor));
  const auto* field = v1::Event::descriptor()->FindFieldByNumber(int(e.type));
  out.set_type(field ? field->name() : "type " + std::to_string(e.type));
  if (!body) return out;
  v1::Event event;
  if (e.body.empty()) {
    out.set_json("\"erased\"");
  } else if (event.ParseFromString(e.body)) {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    std::string text;
    if (google::protobuf::util::MessageToJsonString(event, &text, options).ok()) {
      if (text.size() > kJsonBytes) text = text.substr(0, kJsonBytes) + "...";
      out.set_json(text);
    }
  }
  return out;
}

}  // namespace bp::shell
