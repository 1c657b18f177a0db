// Between our types and their protobuf forms.
#pragma once
#include "bp/v1/common.pb.h"
#include "engine/base/epoch.h"
#include "engine/base/error.h"
#include "engine/base/process.h"

namespace bp::shell {

inline v1::ErrorInfo to_wire(const Error& e) {
  v1::ErrorInfo out;
  out.set_code(std::string(error_name(e.code)));
  out.set_message(e.message);
  out.set_remedy(std::string(e.what_to_do()));
  return out;
}
inline v1::ProcessIdentity to_wire(const ProcessId& p) {
  v1::ProcessIdentity out;
  out.set_pid(p.pid);
  out.set_start_ticks(p.start_ticks);
  out.set_boot_id(p.boot_id);
  return out;
}
inline ProcessId from_wire(const v1::ProcessIdentity& p) {
  return ProcessId{p.pid(), p.start_ticks(), p.boot_id()};
}
inline v1::Epoch to_wire(const Epoch& e) {
  v1::Epoch out;
  out.set_incarnation(e.incarnation);
  out.set_counter(e.counter);
  return out;
}
inline bool same_epoch(const v1::Epoch& a, const Epoch& b) {
  return a.incarnation() == b.incarnation && a.counter() == b.counter;
}
inline bool same_epoch(const v1::Epoch& a, const v1::Epoch& b) {
  return a.incarnation() == b.incarnation() && a.counter() == b.counter();
}
inline std::string epoch_text(const v1::Epoch& e) {
  return std::to_string(e.incarnation()) + "." + std::to_string(e.counter());
}

}  // namespace bp::shell
