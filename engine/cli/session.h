// Session: what every command asks through. Survives the daemon's death: an embedded one is started
// again, a service is waited for; requests carry idempotency keys, so that asking twice does no
// harm.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "engine/cli/client.h"
#include "engine/cli/embedded.h"

namespace bp::cli {

class Session {
 public:
  explicit Session(Paths paths) : paths_(std::move(paths)) {}

  const Paths& paths() const { return paths_; }
  /// Uses this connection from now on.
  void adopt(std::unique_ptr<Client> client) { client_ = std::move(client); }
  /// The connection; made, or made again, when there is none. kNoDaemon.
  Result<Client*> client();

  /// One reply without error; a reply's error becomes the result's. `info`, when not null, gets it
  /// whole.
  Result<v1::ClientReply> ask(const v1::ClientRequest& request, v1::ErrorInfo* info = nullptr);

  using OnView = std::function<void(const v1::RunView&)>;
  /// Shows each change of a run until it ended, needs a human, or (with `until_ready`) serves. The
  /// last view.
  Result<v1::RunView> watch(const std::string& id, bool until_ready, const OnView& on_view,
                            Deadline deadline);

  /// Any other stream. When the daemon dies the stream ends with kPeerLost.
  Status stream(const v1::ClientRequest& request, const Client::OnReply& on_reply,
                Deadline deadline);

 private:
  /// True once another connection stands; false when `error` is no lost daemon or none came back in
  /// time.
  bool reconnect(const Error& error);

  Paths paths_;
  std::unique_ptr<Client> client_;
};

/// True when nothing more happens to the run by itself.
bool run_rests(v1::RunState state);

}  // namespace bp::cli
