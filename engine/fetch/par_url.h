// ParUrl: the parts of a pre-authenticated request URL, and the two requests made of it. Pure.
#pragma once
#include <string>
#include <string_view>

#include "engine/base/result.h"
#include "engine/base/secret.h"

namespace bp::fetch {

struct ParUrl {
  Secret base;         // "https://host/p/TOKEN/n/NS/b/BUCKET/o/", always with the last slash
  std::string origin;  // "https://host:443"
  std::string place;   // "host:443/bucket" for people

  /// kInvalidArgument when `url` is not http(s)://HOST/p/TOKEN/n/NAMESPACE/b/BUCKET/o[/]; the error
  /// never quotes the URL.
  static Result<ParUrl> parse(const Secret& url);
  Secret list_url(std::string_view prefix, std::string_view start) const;
  Secret object_url(std::string_view name) const;
};

/// "https://host:443" of an absolute http(s) URL; empty when it is none or carries a user.
std::string url_origin(std::string_view url);

}  // namespace bp::fetch
