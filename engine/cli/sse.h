// Server-sent events as OpenAI-compatible servers stream them: only `data:` lines matter. Pure.
#pragma once
#include <functional>
#include <string>
#include <string_view>

namespace bp::cli {

class SseParser {
 public:
  /// `on_data` gets each event's data ("[DONE]" included); returning false stops.
  explicit SseParser(std::function<bool(std::string_view)> on_data)
      : on_data_(std::move(on_data)) {}
  /// Takes the next bytes of the body, cut anywhere. False: stopped, or an event is longer than 1
  /// MiB.
  bool feed(std::string_view bytes);

 private:
  bool line(std::string_view text);
  std::function<bool(std::string_view)> on_data_;
  std::string partial_;
  std::string data_;
  bool has_data_ = false;
};

}  // namespace bp::cli
