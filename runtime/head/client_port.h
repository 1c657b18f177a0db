// ClientPort: the binary protocol (HeadRequest / HeadReply) on client_port. The control key may ask
// everything, the client key only generate and cancel. What a client asked for that is gone is
// cancelled as soon as a reply finds it gone. Thread: any; its socket has a thread of its own.
#pragma once
#include <memory>
#include <string>

#include "engine/bus/bus.h"
#include "runtime/head/engine_loop.h"
#include "runtime/text/tokenizer.h"

namespace bp::rt {

struct ClientPortOptions {
  std::string endpoint;  // "tcp://ADDRESS:PORT"
  bus::KeyPair keys;
  std::string control_public_key;  // empty: none is accepted
  std::string client_public_key;   // empty: none is accepted
  Epoch epoch;
  uint32_t max_context_tokens = 0;
};

class ClientPort {
 public:
  /// kPortBusy, kPermission. Engine and tokenizer must outlive it.
  static Result<std::unique_ptr<ClientPort>> open(bus::Context& context, ClientPortOptions options,
                                                  EngineLoop& engine, const Tokenizer& tokenizer);
  virtual ~ClientPort() = default;
  virtual const std::string& endpoint() const = 0;
};

}  // namespace bp::rt
