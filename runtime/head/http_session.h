// One HTTP connection. Internal to http_server.cc and http_session.cc. HTTP thread only.
#pragma once
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/head/http_server.h"

namespace bp::rt {

struct HttpShared {
  HttpOptions options;
  std::atomic<int> connections{0};
  std::atomic<int> answers{0};  // requests whose answer is not complete
  std::atomic<bool> draining{false};
};

class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(boost::asio::ip::tcp::socket socket, HttpHandler handler,
              std::shared_ptr<HttpShared> shared);
  ~HttpSession();
  void start();
  void refuse_busy();

 private:
  class Answer;
  using Error = boost::beast::error_code;
  void read_request();
  void on_header(Error ec);
  void read_body();
  void on_request(Error ec);
  void bad_request(Error ec);
  void dispatch();
  void fail(int status, const std::string& message);
  void watch();
  void on_watched(Error ec, size_t bytes);

  // called by Answer, on the HTTP thread
  void send(uint64_t request, HttpResponse response);
  void begin_stream(uint64_t request, const std::string& content_type);
  void stream_data(uint64_t request, std::string data);
  void end(uint64_t request);
  void closed_callback(uint64_t request, std::function<void()> callback);

  std::string head(int status, const std::string& content_type, const HttpResponse* response);
  void enqueue(std::string_view data);
  void flush_soon();
  void flush();
  void write_rest();
  void answered();
  void proceed();
  void linger();
  void close();

  boost::beast::tcp_stream stream_;
  HttpHandler handler_;
  std::shared_ptr<HttpShared> shared_;
  boost::beast::flat_buffer buffer_;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  std::optional<Parser> parser_;
  std::string out_;       // not yet given to the socket
  std::string sending_;   // of a write under way
  size_t sent_ = 0;       // bytes of sending_
  bool writing_ = false;
  bool flushing_ = false;  // flush() is on its way
  uint64_t request_ = 0;    // number of the request under way
  bool answering_ = false;  // its answer is not complete
  bool ended_ = false;      // its answer is queued to the end
  bool streaming_ = false;
  bool chunked_ = false;
  bool head_only_ = false;
  bool keep_alive_ = false;
  bool watching_ = false;
  bool closed_ = false;
  bool lingering_ = false;
  size_t lingered_ = 0;
  std::function<void()> on_closed_;
};

}  // namespace bp::rt
