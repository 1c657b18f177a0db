// HttpServer: HTTP/1.1 on a few ports with one thread. Keep-alive, chunked streams, bounded
// headers, bodies, connections and send queues; slow clients are dropped. The only header over asio
// and Beast.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/limits.h"
#include "engine/base/result.h"

namespace bp::rt {

struct HttpRequest {
  std::string method;  // "GET", ...; HEAD arrives as GET, its answer is sent without body
  std::string path;    // without query, percent escapes left as they are
  std::string query;
  std::string content_type;  // lower case, without parameters
  std::string authorization;  // as the client sent it: a secret
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

/// The answer to one request. Any thread; calls after the end of the answer are ignored.
class HttpAnswer {
 public:
  virtual ~HttpAnswer() = default;
  virtual void send(HttpResponse response) = 0;
  /// Or a stream: begin, any number of writes, end.
  virtual void begin_stream(std::string content_type) = 0;
  virtual void write(std::string data) = 0;
  virtual void end() = 0;
  /// Runs once on the HTTP thread if the client goes away before the answer is complete.
  virtual void on_closed(std::function<void()> callback) = 0;
};

/// Called on the HTTP thread; must not block. Every answer must be sent or ended.
using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<HttpAnswer>)>;

struct HttpOptions {
  size_t header_bytes = limits::kHttpHeaderBytes;
  size_t body_bytes = limits::kHttpBodyBytes;
  int connections = limits::kHttpConnections;
  size_t queued_bytes = 8 << 20;  // unsent bytes of one connection; above it the client is too slow
  int64_t request_ms = 30'000;    // from the first to the last byte of a request
  int64_t idle_ms = 75'000;       // between requests
  int64_t write_ms = 30'000;      // for the client to take some bytes
};

class HttpServer {
 public:
  static std::unique_ptr<HttpServer> make(HttpOptions options);
  virtual ~HttpServer() = default;  // stops
  /// Binds with SO_REUSEADDR before the server runs; port 0: any. Returns the port. kPortBusy and
  /// kPermission name the address.
  virtual Result<uint16_t> listen(const std::string& address, uint16_t port,
                                  HttpHandler handler) = 0;
  virtual void run() = 0;  // starts the thread
  /// No new connections; waits until the open answers are complete, at most `deadline_ms`.
  virtual void drain(int64_t deadline_ms) = 0;
  /// Runs `f` on the HTTP thread. What answers get there is written at once. Any thread.
  virtual void post(std::function<void()> f) = 0;
  virtual void stop() = 0;
  virtual int connections() const = 0;  // any thread
};

/// "Not Found" of 404.
const char* http_reason(int status);

}  // namespace bp::rt
