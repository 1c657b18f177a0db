// Object stores that speak the pre-authenticated-request (PAR) protocol: list and ranged GET over
// HTTP(S). PAR: https://HOST/p/TOKEN/n/NAMESPACE/b/BUCKET/o/ ; listing is a GET of it with fields,
// prefix, start; a page holds at most 1000 names and continues at nextStartWith. The URL is a
// bearer token: it never appears in an error or a log. Source of the protocol: OCI Object Storage
// API, ListObjects and GetObject.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"

namespace bp::fetch {

struct StoreOptions {
  bool allow_private = false;  // loopback and private addresses; link-local ones never
  int64_t connect_timeout_ms = 5'000;
  int64_t stall_timeout_ms = 15'000;  // no byte for that long
  std::function<bool()> cancelled;    // polled at least every 200 ms; may be empty
};

struct ObjectInfo {
  std::string name;
  uint64_t size_bytes = 0;
  std::string etag;
  std::string md5_base64;  // empty when the store gives none (objects that were uploaded in parts)
};

/// Any thread; calls block up to their deadlines. Errors: kHttpStatus (4xx: final), kHttpRetry
/// (5xx, 429, no connection, cut off, stalled), kForbiddenAddress (private address not allowed,
/// redirect to another host), kDeadlineExceeded, kCancelled, kCorruptData (a listing that is no
/// listing, a length that differs), kTooLarge. Retrying is the caller's. Names in a listing are as
/// the store gave them: judge before use.
class ObjectStore {
 public:
  /// kInvalidArgument when the URL is no PAR of a bucket.
  static Result<std::unique_ptr<ObjectStore>> open(const Secret& par_url, StoreOptions options);
  virtual ~ObjectStore() = default;
  virtual Result<std::vector<ObjectInfo>> list(const std::string& prefix, Deadline deadline) = 0;
  /// Bytes [offset, offset + size) of an object, in memory; size at most limits::kRangeBytes * 4.
  virtual Result<std::string> read(const std::string& name, uint64_t offset, uint64_t size,
                                   Deadline deadline) = 0;
  /// The same, handed over as it arrives; `sink` returning an error ends the transfer with it. With
  /// an etag only that version of the object is read, with a size only an object of that size.
  virtual Status stream(const ObjectInfo& object, uint64_t offset, uint64_t size,
                        const std::function<Status(std::string_view)>& sink, Deadline deadline) = 0;
  /// Host and bucket for people: "127.0.0.1:9000/bucket".
  virtual std::string describe() const = 0;
};

}  // namespace bp::fetch
