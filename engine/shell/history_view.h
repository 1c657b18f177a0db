// An entry of the log for people and programs.
#pragma once
#include "bp/v1/control.pb.h"
#include "storage/journal.h"

namespace bp::shell {

/// With `body` also the event as JSON (bytes in base64; long ones cut; "erased" where it was).
v1::HistoryEntry history_entry(const storage::Entry& entry, bool body);

}  // namespace bp::shell
