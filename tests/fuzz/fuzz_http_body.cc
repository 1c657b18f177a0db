// Any body is a valid request or is refused with an error in OpenAI's shape.
#include <boost/json.hpp>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/head/api_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (bool chat : {false, true}) {
    auto r = chat ? bp::rt::parse_chat_request(body) : bp::rt::parse_completion_request(body);
    if (auto* error = std::get_if<bp::rt::ApiError>(&r)) {
      if (error->status != 400 || error->message.empty()) std::abort();
      boost::json::error_code ec;
      boost::json::parse(bp::rt::api_error_json(*error), ec);
      if (ec) std::abort();
    } else {
      const auto& request = std::get<bp::rt::ApiRequest>(r);
      if (request.n == 0 || request.n > 64 ||
          (chat ? request.messages.empty() : request.prompts.empty()))
        std::abort();
    }
  }
  return 0;
}
