// Values that flow between stages, and optional parts of a state.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bp::core {

/// A named value. Beyond limits::kInlinePayloadBytes it lies beside the log as a blob.
struct Value {
  std::string name;
  std::string bytes;    // hash (hex) of the blob when `is_blob`
  bool is_blob = false;
};
/// Sorted by name, immutable, shared. Null: none.
using Values = std::vector<Value>;
using ValuesPtr = std::shared_ptr<const Values>;
const Value* find_value(const ValuesPtr& values, std::string_view name);

/// Optional part that is copied with its owner and costs a pointer while it is not there.
template <class T>
class Box {
 public:
  Box() = default;
  Box(Box&&) noexcept = default;
  Box& operator=(Box&&) noexcept = default;
  Box(const Box& o) : p_(o.p_ ? std::make_unique<T>(*o.p_) : nullptr) {}
  Box& operator=(const Box& o) {
    p_ = o.p_ ? std::make_unique<T>(*o.p_) : nullptr;
    return *this;
  }
  explicit operator bool() const { return p_ != nullptr; }
  const T* get() const { return p_.get(); }
  T& make() { return p_ ? *p_ : *(p_ = std::make_unique<T>()); }
  void drop() { p_.reset(); }

 private:
  std::unique_ptr<T> p_;
};

}  // namespace bp::core
