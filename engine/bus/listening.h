// Listening sockets that outlive a process image or come from a service manager: a client that dials meanwhile
// waits in the backlog instead of being refused.
#pragma once
#include <string>
#include <vector>

#include "engine/base/fd.h"
#include "engine/base/result.h"

namespace bp::bus {

/// The next Router::bind() to this very endpoint listens on `descriptor` and owns it. Any thread.
void use_descriptor(const std::string& endpoint, Fd descriptor);
/// What use_descriptor() gave, once; no descriptor: nothing was given.
Fd take_descriptor(const std::string& endpoint);

/// "ipc://PATH" or "tcp://ADDRESS:PORT" that the descriptor listens on; kInvalidArgument: it is no listening
/// stream socket.
Result<std::string> listens_on(int descriptor);
/// A duplicate of the descriptor of this process that listens on `endpoint`; kNotFound.
Result<Fd> find_listening(const std::string& endpoint);

/// Takes up what LISTEN_FDS and LISTEN_PID hand to this process (sd_listen_fds), by use_descriptor(). Returns the
/// endpoints.
std::vector<std::string> inherit_listening();
/// Puts the descriptors at 3 and up without close-on-exec, and sets LISTEN_FDS and LISTEN_PID, for an exec.
void bequeath_listening(std::vector<Fd> descriptors);

}  // namespace bp::bus
