#include "engine/fetch/par_url.h"

#include <boost/url/encode.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/rfc/unreserved_chars.hpp>
#include <boost/url/url_view.hpp>
#include <vector>

namespace bp::fetch {
namespace urls = boost::urls;
namespace {

std::string encoded(std::string_view text) { return urls::encode(text, urls::unreserved_chars); }

Error no_par(const std::string& why) {
  return {ErrorCode::kInvalidArgument,
          "the pre-authenticated request " + why +
              "; expected https://HOST/p/TOKEN/n/NAMESPACE/b/BUCKET/o/",
          "Create a request for the whole bucket that permits object reads and listing, and copy "
          "its URL"};
}

std::string origin_of(const urls::url_view& u) {
  const std::string scheme = u.scheme();
  std::string port = u.port();
  if (port.empty()) port = scheme == "https" ? "443" : "80";
  std::string host(u.encoded_host().data(), u.encoded_host().size());
  for (char& c : host) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return scheme + "://" + host + ":" + port;
}

bool is_http(const urls::url_view& u) { return u.scheme() == "https" || u.scheme() == "http"; }

}  // namespace

std::string url_origin(std::string_view url) {
  auto u = urls::parse_uri(url);
  if (u.has_error() || !is_http(*u) || u->host().empty() || u->has_userinfo()) return {};
  return origin_of(*u);
}

Result<ParUrl> ParUrl::parse(const Secret& url) {
  if (url.reveal().size() > 4096) return no_par("is longer than 4096 characters");
  auto parsed = urls::parse_uri(url.reveal());
  if (parsed.has_error()) return no_par("is no URL");
  const urls::url_view& u = *parsed;
  if (!is_http(u)) return no_par("is neither http nor https");
  if (u.host().empty()) return no_par("names no host");
  if (u.has_userinfo()) return no_par("carries a user name");
  if (u.has_query() || u.has_fragment()) return no_par("carries a query or a fragment");
  std::vector<std::string> segments;
  for (auto s : u.encoded_segments()) segments.emplace_back(s);
  if (segments.size() == 8 && segments[7].empty()) segments.pop_back();
  if (segments.size() > 7) return no_par("is for a single object or a folder, not for a bucket");
  if (segments.size() < 7 || segments[0] != "p" || segments[2] != "n" || segments[4] != "b" ||
      segments[6] != "o" || segments[1].empty() || segments[3].empty() || segments[5].empty()) {
    return no_par("has another path");
  }
  ParUrl out;
  out.origin = origin_of(u);
  out.place = out.origin.substr(out.origin.find("://") + 3) + "/" + segments[5];
  std::string base = out.origin;
  for (const auto& s : segments) base += "/" + s;
  out.base = Secret(base + "/");
  return out;
}

Secret ParUrl::list_url(std::string_view prefix, std::string_view start) const {
  std::string out = base.reveal() + "?fields=name,size,md5,etag&limit=1000";
  if (!prefix.empty()) out += "&prefix=" + encoded(prefix);
  if (!start.empty()) out += "&start=" + encoded(start);
  return Secret(std::move(out));
}

Secret ParUrl::object_url(std::string_view name) const {
  return Secret(base.reveal() + encoded(name));
}

}  // namespace bp::fetch
