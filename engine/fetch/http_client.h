// HttpClient: one GET at a time per call, over libcurl, under the address rules of a store.
// Proxies and .netrc are ignored, only http and https are spoken, TLS peers are verified, redirects
// are followed only within the same origin, at most kRedirectsMax of them.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"
#include "engine/fetch/object_store.h"

namespace bp::fetch {

struct HttpRequest {
  Secret url;
  std::string what;   // for error texts: `read "a.gguf" from host/bucket`
  std::string range;  // "0-99", empty: none
  std::string if_match;
};
struct HttpHead {
  long status = 0;
  std::string content_range;
  int64_t content_length = -1;
};

class HttpClient {
 public:
  static constexpr int kRedirectsMax = 3;
  explicit HttpClient(StoreOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// `on_head` is called once before the first byte of a 2xx answer, `on_body` with each piece; an
  /// error of either ends the transfer and is returned. Any thread. Errors: as in object_store.h.
  Status get(const HttpRequest& request, const std::function<Status(const HttpHead&)>& on_head,
             const std::function<Status(std::string_view)>& on_body, Deadline deadline);

 private:
  struct Connection;
  struct Transfer;
  std::unique_ptr<Connection> take();
  void give(std::unique_ptr<Connection> connection);
  Status once(Connection& connection, const HttpRequest& request, Transfer& transfer,
              Deadline deadline);

  const StoreOptions options_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_;  // guarded by mutex_
};

}  // namespace bp::fetch
