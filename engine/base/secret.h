// Secret: a string that is wiped on destruction and prints as ***, so that it cannot slip into a log.
#pragma once
#include <fmt/format.h>

#include <string>
#include <string_view>

namespace bp {

class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  Secret(Secret&&) = default;
  Secret& operator=(Secret&&) = default;
  ~Secret();
  /// The plain value: hand it to the one call that needs it, nowhere else.
  const std::string& reveal() const { return value_; }
  bool empty() const { return value_.empty(); }

 private:
  std::string value_;
};

/// Replaces what follows "/p/" in pre-authenticated URLs, and every user:password@, by ***.
std::string redact(std::string_view text);

/// No core dumps for this process: memory may hold bearer tokens and keys.
void disable_core_dumps();

}  // namespace bp

template <>
struct fmt::formatter<bp::Secret> : fmt::formatter<std::string_view> {
  auto format(const bp::Secret&, fmt::format_context& ctx) const {
    return fmt::formatter<std::string_view>::format("***", ctx);
  }
};
