// The embedded daemon: started by `bp up` for this user, started again by any later command when it
// died. STATE_DIR/embedded.json holds its arguments for as long as it is wanted.
#pragma once
#include <memory>
#include <string>

#include "engine/cli/client.h"
#include "engine/cli/paths.h"

namespace bp::cli {

struct EmbeddedOptions {
  std::string provider;  // empty: the daemon's default
  std::string device;
  bool allow_private_stores = false;
  bool exact = false;
  bool operator==(const EmbeddedOptions&) const = default;
};

/// The options that the wanted embedded daemon was started with. kNotFound: none is wanted.
Result<EmbeddedOptions> read_embedded(const Paths& paths);

/// Starts bp-daemon --embedded from the folder of this program and waits until it answers. Whoever
/// else starts one at the same time: one of the two wins, and both callers get its connection.
/// kNoDaemon with the end of its log when it does not come up; kNotFound when the program is
/// missing.
Result<std::unique_ptr<Client>> start_embedded(const Paths& paths, const EmbeddedOptions& options);

/// Connects; when the wanted embedded daemon has died, starts it again first. kNoDaemon otherwise.
Result<std::unique_ptr<Client>> connect_or_revive(const Paths& paths);

/// From now on no embedded daemon is wanted.
Status forget_embedded(const Paths& paths);

}  // namespace bp::cli
