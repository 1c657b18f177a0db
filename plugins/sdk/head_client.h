// HeadClient: asks a bp-head over its client port (HeadControl of proto/bp/v1/rank.proto, CURVE).
// Thread-confined; every call has a deadline. Errors: kUnavailable when nothing listens at the address, or
// no more while an answer is awaited (noticed within 400 ms), kDeadlineExceeded naming the head, kProtocol,
// and the head's own.
#pragma once
#include <memory>
#include <string>

#include "bp/v1/rank.pb.h"
#include "bp/v1/recipe.pb.h"
#include "engine/base/clock.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"

namespace bp::sdk {

class StageContext;

struct HeadClientOptions {
  std::string endpoint;            // tcp://ADDRESS:rayclient_server_port
  std::string head_public_key;
  std::string control_public_key;
  Secret control_secret_key;
};

class HeadClient {
 public:
  /// Dials nothing yet: the first call does, as soon as the port accepts connections.
  static Result<std::unique_ptr<HeadClient>> open(HeadClientOptions options);
  ~HeadClient();

  Result<v1::HeadStatus> status(Deadline deadline);
  Result<v1::HeadCanaryResult> canary(Deadline deadline);
  /// The head stops taking requests; returns how many were still running at `drain_ms`.
  Result<uint64_t> drain(int64_t drain_ms, Deadline deadline);
  Status expect_group(const v1::Epoch& group_epoch, Deadline deadline);
  /// True when something accepts TCP connections at the endpoint now. Waits at most 200 ms.
  bool listening() const;

 private:
  struct Impl;
  explicit HeadClient(std::unique_ptr<Impl> impl);
  Result<v1::HeadControlReply> ask(const v1::HeadControl& control, Deadline deadline);
  std::unique_ptr<Impl> impl_;
};

/// A client for the head that start_head made, with the control key given.
Result<std::unique_ptr<HeadClient>> open_head_client(const v1::HeadReady& head, const Secret& control_key);
/// The same with the run's own control key. kNotFound when the stage's
/// definition does not say needs_secrets.
Result<std::unique_ptr<HeadClient>> open_head_client(const StageContext& ctx, const v1::HeadReady& head);

}  // namespace bp::sdk
