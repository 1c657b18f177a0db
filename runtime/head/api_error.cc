#include <boost/json.hpp>

#include "runtime/head/api_request.h"
#include "runtime/text/utf8.h"

namespace bp::rt {

namespace json = boost::json;

std::string api_error_json(const ApiError& e) {
  auto or_null = [](const std::string& s) {
    return s.empty() ? json::value(nullptr) : json::value(valid_utf8(s));
  };
  return json::serialize(json::object{{"error",
                                       {{"message", valid_utf8(e.message)},
                                        {"type", e.type},
                                        {"param", or_null(e.param)},
                                        {"code", or_null(e.code)}}}});
}

}  // namespace bp::rt
