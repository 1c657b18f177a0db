// Who uses an address of 127.0.0.0/8 on this machine: its bp-node holds a claim for as long as it lives.
// A claim is an abstract unix socket named after the address: it needs no file, is seen by all users of the
// network namespace that the address itself belongs to, and ends with its process. Any thread.
#pragma once
#include <string>

#include "engine/base/fd.h"
#include "engine/base/result.h"

namespace bp {

/// Holds the claim until the descriptor is closed (it is not inherited by programs that are started).
/// kPortBusy names the address when another process holds it; kInvalidArgument when it is too long.
Result<Fd> claim_address(const std::string& address);

}  // namespace bp
