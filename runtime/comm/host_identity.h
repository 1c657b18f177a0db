// Which processes may meet in one memory.
#pragma once
#include <string>

namespace bp::rt {

/// The same for processes of one boot, one process namespace and one network namespace: those can open each other's
/// memory through /proc. Ranks in another network namespace count as another host.
std::string host_identity();

}  // namespace bp::rt
