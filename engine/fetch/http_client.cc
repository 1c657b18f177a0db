#include "engine/fetch/http_client.h"

#include <curl/curl.h>

#include <algorithm>

#include "engine/fetch/address_rules.h"
#include "engine/fetch/par_url.h"

namespace bp::fetch {
namespace {

constexpr size_t kIdleConnectionsMax = 32;

void curl_ready() {
  static const bool ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  BP_CHECK(ready);
}

std::string_view trimmed(std::string_view s) {
  const size_t a = s.find_first_not_of(" \t\r\n");
  if (a == std::string_view::npos) return {};
  return s.substr(a, s.find_last_not_of(" \t\r\n") - a + 1);
}

bool starts_with_ci(std::string_view text, std::string_view lower_prefix) {
  if (text.size() < lower_prefix.size()) return false;
  return std::equal(lower_prefix.begin(), lower_prefix.end(), text.begin(),
                    [](char p, char c) { return p == (c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c); });
}

Error status_error(const std::string& what, long status) {
  const std::string text = what + ": the store answered HTTP " + std::to_string(status);
  if (status >= 500 || status == 429 || status == 408) return {ErrorCode::kHttpRetry, text, {}};
  if (status == 412)
    return {ErrorCode::kHttpStatus, text + " (the object changed since it was listed)", {}};
  if (status == 404) {
    return {ErrorCode::kHttpStatus,
            text + " (no such bucket or object, or the request's token is not valid)",
            {}};
  }
  return {ErrorCode::kHttpStatus, text, {}};
}

}  // namespace

struct HttpClient::Connection {
  CURLM* multi = curl_multi_init();
  CURL* easy = curl_easy_init();
  ~Connection() {
    curl_easy_cleanup(easy);
    curl_multi_cleanup(multi);
  }
};

struct HttpClient::Transfer {
  const StoreOptions& options;
  const std::function<Status(const HttpHead&)>& on_head;
  const std::function<Status(std::string_view)>& on_body;
  CURL* easy = nullptr;
  HttpHead head;
  bool head_given = false;
  Status failed;  // of a callback or of the address rules
  int64_t last_byte_ns = 0;
  std::string redirect;  // absolute URL, when the answer is one
  curl_slist* headers = nullptr;

  Transfer(const StoreOptions& o, const std::function<Status(const HttpHead&)>& head_sink,
           const std::function<Status(std::string_view)>& body_sink)
      : options(o), on_head(head_sink), on_body(body_sink) {}
  Transfer(const Transfer&) = delete;
  ~Transfer() { curl_slist_free_all(headers); }
  void configure(const HttpRequest& request);
  Status drive(CURLM* multi, const std::string& what, Deadline deadline, CURLcode* code);

  static size_t on_header(char* data, size_t, size_t n, void* self) {
    auto& t = *static_cast<Transfer*>(self);
    std::string_view line(data, n);
    if (line.substr(0, 5) == "HTTP/") t.head = {};
    if (starts_with_ci(line, "content-range:"))
      t.head.content_range = trimmed(line.substr(14)).substr(0, 128);
    t.last_byte_ns = monotonic_ns();
    return n;
  }

  static size_t on_data(char* data, size_t, size_t n, void* self) {
    auto& t = *static_cast<Transfer*>(self);
    t.last_byte_ns = monotonic_ns();
    if (!t.give_head()) return 0;
    if (t.head.status < 200 || t.head.status >= 300) return n;  // an error page: not wanted
    t.failed = t.on_body({data, n});
    return t.failed.ok() ? n : 0;
  }

  // False when on_head refused.
  bool give_head() {
    if (head_given) return failed.ok();
    head_given = true;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &head.status);
    curl_off_t length = -1;
    curl_easy_getinfo(easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    head.content_length = length;
    if (head.status >= 200 && head.status < 300) failed = on_head(head);
    return failed.ok();
  }

  static curl_socket_t open_socket(void* self, curlsocktype, curl_sockaddr* a) {
    auto& t = *static_cast<Transfer*>(self);
    const AddressClass c = classify_address(&a->addr, a->addrlen);
    if (c == AddressClass::kForbidden ||
        (c == AddressClass::kPrivate && !t.options.allow_private)) {
      t.failed = Error{
          ErrorCode::kForbiddenAddress,
          "its address " + address_text(&a->addr, a->addrlen) +
              (c == AddressClass::kForbidden ? " is never contacted"
                                             : " is loopback or private, which is not allowed"),
          {}};
      return CURL_SOCKET_BAD;
    }
    return ::socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
  }
};

HttpClient::HttpClient(StoreOptions options) : options_(std::move(options)) { curl_ready(); }
HttpClient::~HttpClient() = default;

std::unique_ptr<HttpClient::Connection> HttpClient::take() {
  std::lock_guard lock(mutex_);
  if (idle_.empty()) return std::make_unique<Connection>();
  auto out = std::move(idle_.back());
  idle_.pop_back();
  return out;
}

void HttpClient::give(std::unique_ptr<Connection> connection) {
  std::lock_guard lock(mutex_);
  if (idle_.size() < kIdleConnectionsMax) idle_.push_back(std::move(connection));
}

void HttpClient::Transfer::configure(const HttpRequest& request) {
  curl_easy_reset(easy);
  last_byte_ns = monotonic_ns();
  curl_easy_setopt(easy, CURLOPT_URL, request.url.reveal().c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_PROXY, "");
  curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
  curl_easy_setopt(easy, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
  curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "bp-daemon");
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout_ms));
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 256L * 1024);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, &Transfer::open_socket);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, this);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, this);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &Transfer::on_data);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, this);
  if (!request.range.empty()) curl_easy_setopt(easy, CURLOPT_RANGE, request.range.c_str());
  if (request.if_match.empty()) return;
  headers = curl_slist_append(nullptr, ("If-Match: " + request.if_match).c_str());
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
}

// Until curl is through with it (`code` says how) or time, stall or cancel end it.
Status HttpClient::Transfer::drive(CURLM* multi, const std::string& what, Deadline deadline,
                                   CURLcode* code) {
  for (int running = 1;;) {
    curl_multi_perform(multi, &running);
    if (running == 0) {
      int left = 0;
      if (CURLMsg* m = curl_multi_info_read(multi, &left)) *code = m->data.result;
      return {};
    }
    if (options.cancelled && options.cancelled()) {
      return Error{ErrorCode::kCancelled, what + ": cancelled", {}};
    }
    if (deadline.passed()) {
      return Error{ErrorCode::kDeadlineExceeded, what + ": the store did not finish in time", {}};
    }
    if (monotonic_ns() - last_byte_ns > options.stall_timeout_ms * 1'000'000) {
      return Error{ErrorCode::kHttpRetry,
                   what + ": no byte for " + std::to_string(options.stall_timeout_ms) + " ms",
                   {}};
    }
    const auto wait_ms = static_cast<int>(std::clamp<int64_t>(deadline.left_ms(), 1, 100));
    curl_multi_poll(multi, nullptr, 0, wait_ms, nullptr);
  }
}

Status HttpClient::once(Connection& c, const HttpRequest& request, Transfer& t, Deadline deadline) {
  t.easy = c.easy;
  t.configure(request);
  if (curl_multi_add_handle(c.multi, c.easy) != CURLM_OK) {
    return Error{ErrorCode::kInternal, request.what + ": curl refused the transfer", {}};
  }
  CURLcode code = CURLE_OK;
  Status ended = t.drive(c.multi, request.what, deadline, &code);
  if (ended.ok() && code == CURLE_OK) {
    t.give_head();  // an empty body has not called on_data
    char* location = nullptr;
    curl_easy_getinfo(c.easy, CURLINFO_REDIRECT_URL, &location);
    if (location) t.redirect = location;
  }
  curl_multi_remove_handle(c.multi, c.easy);
  BP_TRY(ended);
  if (!t.failed.ok()) return Error(t.failed.error()).with_context(request.what);
  if (code == CURLE_OK) return {};
  const std::string text = request.what + ": " + redact(curl_easy_strerror(code));
  if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
    return Error{ErrorCode::kForbiddenAddress, text,
                 "Check the store's TLS certificate and this host's CA list"};
  }
  if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT) {
    return Error{ErrorCode::kInvalidArgument, text, {}};
  }
  return Error{ErrorCode::kHttpRetry, text, {}};
}

Status HttpClient::get(const HttpRequest& request,
                       const std::function<Status(const HttpHead&)>& on_head,
                       const std::function<Status(std::string_view)>& on_body, Deadline deadline) {
  const std::string origin = url_origin(request.url.reveal());
  if (origin.empty())
    return Error{ErrorCode::kInvalidArgument, request.what + ": not an http or https URL", {}};
  HttpRequest at = request;
  for (int hop = 0;; ++hop) {
    auto connection = take();
    Transfer t(options_, on_head, on_body);
    Status s = once(*connection, at, t, deadline);
    if (!s.ok()) return s;  // the connection is dropped: its state is not known
    give(std::move(connection));
    if (t.head.status >= 200 && t.head.status < 300) return {};
    if (t.head.status < 300 || t.head.status >= 400 || t.redirect.empty()) {
      return status_error(request.what, t.head.status);
    }
    if (url_origin(t.redirect) != origin) {
      return Error{
          ErrorCode::kForbiddenAddress, request.what + ": the store redirects to another host", {}};
    }
    if (hop >= kRedirectsMax) {
      return Error{ErrorCode::kHttpStatus,
                   request.what + ": more than " + std::to_string(kRedirectsMax) + " redirects",
                   {}};
    }
    at.url = Secret(t.redirect);
  }
}

}  // namespace bp::fetch
