// Between messages of proto/bp/v1/common.proto and the types of engine/base.
#pragma once
#include "bp/v1/common.pb.h"
#include "engine/base/epoch.h"
#include "engine/base/error.h"
#include "engine/base/process.h"

namespace bp::node {

inline Epoch from_proto(const v1::Epoch& e) { return {e.incarnation(), e.counter()}; }
inline void to_proto(Epoch e, v1::Epoch* out) {
  out->set_incarnation(e.incarnation);
  out->set_counter(e.counter);
}
inline ProcessId from_proto(const v1::ProcessIdentity& p) {
  return {static_cast<pid_t>(p.pid()), p.start_ticks(), p.boot_id()};
}
inline void to_proto(const ProcessId& p, v1::ProcessIdentity* out) {
  out->set_pid(p.pid);
  out->set_start_ticks(p.start_ticks);
  out->set_boot_id(p.boot_id);
}
inline void to_proto(const Error& e, v1::ErrorInfo* out) {
  out->set_code(std::string(error_name(e.code)));
  out->set_message(e.message);
  out->set_remedy(std::string(e.what_to_do()));
}

}  // namespace bp::node
