#include "runtime/head/http_server.h"

#include <fmt/format.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <thread>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "runtime/head/http_session.h"

namespace bp::rt {

namespace asio = boost::asio;
using asio::ip::tcp;

const char* http_reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 429:
      return "Too Many Requests";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

namespace {

class Listener : public std::enable_shared_from_this<Listener> {
 public:
  Listener(asio::io_context& io, HttpHandler handler, std::shared_ptr<HttpShared> shared)
      : acceptor_(io), retry_(io), handler_(std::move(handler)), shared_(std::move(shared)) {}

  Result<uint16_t> open(const std::string& address, uint16_t port) {
    boost::system::error_code ec;
    auto ip = asio::ip::make_address(address, ec);
    if (ec)
      return Error{
          ErrorCode::kInvalidArgument, fmt::format("'{}' is not an IP address", address), {}};
    tcp::endpoint endpoint(ip, port);
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
    if (ec) {
      ErrorCode code = ec == asio::error::address_in_use  ? ErrorCode::kPortBusy
                       : ec == asio::error::access_denied ? ErrorCode::kPermission
                                                          : ErrorCode::kIo;
      return Error{
          code, fmt::format("cannot listen on {}:{}: {}", address, port, ec.message()), {}};
    }
    return acceptor_.local_endpoint().port();
  }

  void accept() {
    acceptor_.async_accept(
        [self = shared_from_this()](boost::system::error_code ec, tcp::socket socket) {
          if (ec == asio::error::operation_aborted || !self->acceptor_.is_open()) return;
          if (ec) return self->later();  // out of descriptors, or the peer is gone already
          bool full = self->shared_->connections >= self->shared_->options.connections;
          auto session =
              std::make_shared<HttpSession>(std::move(socket), self->handler_, self->shared_);
          if (full)
            session->refuse_busy();
          else
            session->start();
          self->accept();
        });
  }
  void close() {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    retry_.cancel();
  }

 private:
  void later() {
    retry_.expires_after(std::chrono::milliseconds(50));
    retry_.async_wait([self = shared_from_this()](boost::system::error_code ec) {
      if (!ec) self->accept();
    });
  }
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  HttpHandler handler_;
  std::shared_ptr<HttpShared> shared_;
};

class HttpServerImpl final : public HttpServer {
 public:
  explicit HttpServerImpl(HttpOptions options)
      : shared_(std::make_shared<HttpShared>()), guard_(io_.get_executor()) {
    shared_->options = options;
  }
  ~HttpServerImpl() override { stop(); }

  Result<uint16_t> listen(const std::string& address, uint16_t port, HttpHandler handler) override {
    auto listener = std::make_shared<Listener>(io_, std::move(handler), shared_);
    auto opened = listener->open(address, port);
    if (opened.ok()) listeners_.push_back(std::move(listener));
    return opened;
  }

  void run() override {
    for (auto& l : listeners_) l->accept();
    thread_ = std::thread([this] {
      for (;;) {
        try {
          io_.run();
          return;
        } catch (const std::exception& e) {  // of one connection: the others go on
          BP_LOG(err, "http.failed", "error={}", e.what());
        }
      }
    });
  }

  void drain(int64_t deadline_ms) override {
    shared_->draining = true;
    asio::post(io_, [this] {
      for (auto& l : listeners_) l->close();
    });
    Deadline deadline = Deadline::in_ms(deadline_ms);
    while (shared_->answers > 0 && !deadline.passed())
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  void stop() override {
    if (!thread_.joinable()) return;
    asio::post(io_, [this] {
      for (auto& l : listeners_) l->close();
      io_.stop();
    });
    thread_.join();
  }
  void post(std::function<void()> f) override { asio::post(io_, std::move(f)); }
  int connections() const override { return shared_->connections; }

 private:
  std::shared_ptr<HttpShared> shared_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<HttpServer> HttpServer::make(HttpOptions options) {
  return std::make_unique<HttpServerImpl>(options);
}

}  // namespace bp::rt
