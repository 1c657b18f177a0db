#include "runtime/head/http_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <chrono>
#include <iterator>

#include "engine/base/log.h"

namespace bp::rt {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using std::chrono::milliseconds;

namespace {
constexpr size_t kPipelinedBytes = 64 << 10;  // read ahead while an answer is under way
constexpr size_t kLingerBytes = 32 << 20;
constexpr size_t kPieceBytes = 256 << 10;
constexpr int64_t kLingerMs = 2'000;
}  // namespace

/// The handler's side: forwards to the session on the HTTP thread.
class HttpSession::Answer final : public HttpAnswer {
 public:
  Answer(std::shared_ptr<HttpSession> session, uint64_t request)
      : session_(std::move(session)),
        executor_(session_->stream_.get_executor()),
        request_(request) {}
  void send(HttpResponse r) override {
    post([r = std::move(r)](HttpSession& s, uint64_t n) mutable { s.send(n, std::move(r)); });
  }
  void begin_stream(std::string type) override {
    post([type = std::move(type)](HttpSession& s, uint64_t n) { s.begin_stream(n, type); });
  }
  void write(std::string data) override {
    post([data = std::move(data)](HttpSession& s, uint64_t n) mutable {
      s.stream_data(n, std::move(data));
    });
  }
  void end() override {
    post([](HttpSession& s, uint64_t n) { s.end(n); });
  }
  void on_closed(std::function<void()> callback) override {
    post([cb = std::move(callback)](HttpSession& s, uint64_t n) mutable {
      s.closed_callback(n, std::move(cb));
    });
  }

 private:
  template <class F>
  void post(F f) {
    // At once on the HTTP thread itself.
    asio::dispatch(executor_,
                   [session = session_, n = request_, f = std::move(f)]() mutable { f(*session, n); });
  }
  std::shared_ptr<HttpSession> session_;
  beast::tcp_stream::executor_type executor_;
  uint64_t request_;
};

HttpSession::HttpSession(asio::ip::tcp::socket socket, HttpHandler handler,
                         std::shared_ptr<HttpShared> shared)
    : stream_(std::move(socket)),
      handler_(std::move(handler)),
      shared_(std::move(shared)),
      buffer_(shared_->options.header_bytes + kPipelinedBytes) {
  ++shared_->connections;
  beast::error_code ignored;
  stream_.socket().non_blocking(true, ignored);  // a write takes what the socket has room for
}
HttpSession::~HttpSession() { --shared_->connections; }

void HttpSession::start() {
  beast::error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  read_request();
}

void HttpSession::refuse_busy() {
  parser_.emplace();
  answering_ = true;
  ++shared_->answers;
  fail(503, "too many connections");
}

// ---- reading

void HttpSession::read_request() {
  if (closed_) return;
  if (shared_->draining && buffer_.size() == 0) return close();
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(shared_->options.header_bytes));
  parser_->body_limit(shared_->options.body_bytes);
  // The wait for the first byte is idleness; what follows has the request's own time.
  if (buffer_.size() > 0) {
    stream_.expires_after(milliseconds(shared_->options.request_ms));
    http::async_read_header(stream_, buffer_, *parser_,
                            [self = shared_from_this()](Error ec, size_t) { self->on_header(ec); });
    return;
  }
  stream_.expires_after(milliseconds(shared_->options.idle_ms));
  stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](Error ec, size_t n) {
    if (ec) return self->close();
    self->buffer_.commit(n);
    self->stream_.expires_after(milliseconds(self->shared_->options.request_ms));
    http::async_read_header(self->stream_, self->buffer_, *self->parser_,
                            [self](Error e, size_t) { self->on_header(e); });
  });
}

void HttpSession::on_header(Error ec) {
  if (ec) return bad_request(ec);
  const auto& fields = parser_->get();
  if (fields.version() >= 11 && fields.count(http::field::host) != 1) {
    answering_ = true;
    ++shared_->answers;
    return fail(400, "the Host header is missing or repeated");
  }
  if (beast::iequals(fields[http::field::expect], "100-continue")) {
    auto text = std::make_shared<std::string>("HTTP/1.1 100 Continue\r\n\r\n");
    asio::async_write(stream_, asio::buffer(*text),
                      [self = shared_from_this(), text](Error e, size_t) {
                        if (e) return self->close();
                        self->read_body();
                      });
    return;
  }
  read_body();
}

void HttpSession::read_body() {
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](Error ec, size_t) { self->on_request(ec); });
}

void HttpSession::on_request(Error ec) {
  if (ec) return bad_request(ec);
  dispatch();
}

void HttpSession::bad_request(Error ec) {
  bool ours = ec.category() == beast::error_code(http::error::bad_method).category();
  if (ec == beast::error::timeout && buffer_.size() > 0) return close();
  if (!ours || ec == http::error::end_of_stream || ec == http::error::partial_message)
    return close();
  answering_ = true;
  ++shared_->answers;
  if (ec == http::error::body_limit) {
    return fail(413, fmt::format("the body is larger than {} bytes", shared_->options.body_bytes));
  }
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return fail(431,
                fmt::format("the header is larger than {} bytes", shared_->options.header_bytes));
  }
  if (ec == http::error::bad_version) return fail(505, "expected HTTP/1.0 or HTTP/1.1");
  fail(400, "not a valid HTTP request: " + ec.message());
}

/// An error before any handler was asked: the connection ends with it.
void HttpSession::fail(int status, const std::string& message) {
  keep_alive_ = false;
  head_only_ = false;
  HttpResponse r;
  r.status = status;
  if (status == 503) r.headers.emplace_back("Retry-After", "1");
  r.body = fmt::format(
      R"({{"error":{{"message":"{}","type":"invalid_request_error","param":null,"code":null}}}})",
      message);
  send(request_, std::move(r));
}

void HttpSession::dispatch() {
  auto& message = parser_->get();
  HttpRequest r;
  r.method = std::string(message.method_string());
  head_only_ = r.method == "HEAD";
  if (head_only_) r.method = "GET";
  std::string target(message.target());
  size_t question = target.find('?');
  r.path = target.substr(0, question);
  if (question != std::string::npos) r.query = target.substr(question + 1);
  r.authorization = std::string(message[http::field::authorization]);
  std::string type(message[http::field::content_type]);
  r.content_type = beast::string_view(type).substr(0, type.find(';'));
  std::transform(r.content_type.begin(), r.content_type.end(), r.content_type.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  r.content_type.erase(r.content_type.find_last_not_of(" \t") + 1);
  keep_alive_ = message.keep_alive() && !shared_->draining;
  chunked_ = message.version() >= 11;
  r.body = std::move(message.body());
  answering_ = true;
  ended_ = streaming_ = false;
  ++shared_->answers;
  auto answer = std::make_shared<Answer>(shared_from_this(), request_);
  watch();
  try {
    handler_(std::move(r), answer);
  } catch (const std::exception& e) {
    BP_LOG(err, "http.handler_failed", "error={}", e.what());
    answer->send(
        {500,
         "application/json",
         R"({"error":{"message":"internal error","type":"server_error","param":null,"code":null}})",
         {}});
  }
}

/// While an answer is made, reading tells when the client goes away; pipelined bytes are kept.
void HttpSession::watch() {
  if (watching_ || closed_ || buffer_.size() >= kPipelinedBytes) return;
  watching_ = true;
  stream_.expires_never();
  stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](Error ec, size_t n) {
    self->on_watched(ec, n);
  });
}

void HttpSession::on_watched(Error ec, size_t bytes) {
  watching_ = false;
  buffer_.commit(bytes);
  if (closed_) return;
  if (answering_) {
    if (ec) return close();
    return watch();
  }
  if (ec && ec != asio::error::operation_aborted) return close();
  proceed();
}

// ---- answering

void HttpSession::closed_callback(uint64_t request, std::function<void()> callback) {
  if (request != request_ || ended_) return;
  if (closed_) return callback();
  on_closed_ = std::move(callback);
}

std::string HttpSession::head(int status, const std::string& content_type,
                              const HttpResponse* response) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: bp-head\r\nConnection: {}\r\n", status,
                                http_reason(status), keep_alive_ ? "keep-alive" : "close");
  if (status != 204) out += fmt::format("Content-Type: {}\r\n", content_type);
  if (response) {
    if (status != 204) out += fmt::format("Content-Length: {}\r\n", response->body.size());
    for (const auto& [name, value] : response->headers)
      out += fmt::format("{}: {}\r\n", name, value);
  } else {
    out += "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
    if (chunked_) out += "Transfer-Encoding: chunked\r\n";
  }
  return out + "\r\n";
}

void HttpSession::send(uint64_t request, HttpResponse response) {
  if (request != request_ || !answering_ || ended_ || streaming_) return;
  ended_ = true;
  std::string data = head(response.status, response.content_type, &response);
  if (!head_only_) data += response.body;
  enqueue(std::move(data));
}

void HttpSession::begin_stream(uint64_t request, const std::string& content_type) {
  if (request != request_ || !answering_ || ended_ || streaming_) return;
  streaming_ = true;
  if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the connection ends the body
  enqueue(head(200, content_type, nullptr));
}

void HttpSession::stream_data(uint64_t request, std::string data) {
  if (request != request_ || !streaming_ || ended_ || data.empty()) return;
  if (!chunked_) return enqueue(data);
  fmt::format_to(std::back_inserter(out_), "{:x}\r\n", data.size());
  out_ += data;
  enqueue("\r\n");
}

void HttpSession::end(uint64_t request) {
  if (request != request_ || !streaming_ || ended_) return;
  ended_ = true;
  enqueue(chunked_ ? "0\r\n\r\n" : "");
}

void HttpSession::enqueue(std::string_view data) {
  if (closed_) return;
  out_ += data;
  if (out_.size() + sending_.size() - sent_ > shared_->options.queued_bytes && streaming_)
    return close();  // the client is too slow
  flush_soon();
}

/// What one batch of events adds goes out in one write.
void HttpSession::flush_soon() {
  if (writing_ || std::exchange(flushing_, true)) return;
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->flush(); });
}

void HttpSession::flush() {
  flushing_ = false;
  if (closed_ || writing_) return;
  if (!out_.empty()) {
    Error ec;
    const size_t n = stream_.socket().write_some(asio::buffer(out_), ec);
    if (ec && ec != asio::error::would_block) return close();
    if (n < out_.size()) {
      sending_ = std::exchange(out_, {});
      sent_ = n;
      return write_rest();
    }
    out_.clear();
  }
  if (ended_) answered();
}

/// The socket is full: the rest when it takes more, piece by piece, so that the time is for some bytes.
void HttpSession::write_rest() {
  writing_ = true;
  stream_.expires_after(milliseconds(shared_->options.write_ms));
  const size_t most = std::min<size_t>(sending_.size() - sent_, kPieceBytes);
  stream_.async_write_some(asio::buffer(sending_.data() + sent_, most),
                           [self = shared_from_this()](Error ec, size_t n) {
                             if (ec) return self->close();
                             self->sent_ += n;
                             if (self->sent_ < self->sending_.size()) return self->write_rest();
                             self->writing_ = false;
                             self->sending_.clear();
                             self->sent_ = 0;
                             self->flush();
                           });
}

void HttpSession::answered() {
  answering_ = false;
  --shared_->answers;
  on_closed_ = nullptr;
  ++request_;
  if (!keep_alive_) {
    lingering_ = true;
    beast::error_code ignored;
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  }
  if (watching_) return stream_.cancel();  // goes on in on_watched
  proceed();
}

void HttpSession::proceed() {
  if (!lingering_) return read_request();
  stream_.expires_after(milliseconds(kLingerMs));
  linger();
}

/// Reads what the client still sends, so that it sees the answer and not a reset.
void HttpSession::linger() {
  auto scratch = std::make_shared<std::string>(64 << 10, '\0');
  stream_.async_read_some(asio::buffer(*scratch),
                          [self = shared_from_this(), scratch](Error ec, size_t n) {
                            self->lingered_ += n;
                            if (ec || self->lingered_ > kLingerBytes) return self->close();
                            self->linger();
                          });
}

void HttpSession::close() {
  if (closed_) return;
  closed_ = true;
  if (answering_) --shared_->answers;
  beast::error_code ignored;
  stream_.socket().close(ignored);
  out_.clear();
  if (on_closed_) std::exchange(on_closed_, nullptr)();
}

}  // namespace bp::rt
