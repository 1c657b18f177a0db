// Result<T>: a value or an Error. Expected failure is a Result; programmer error is BP_CHECK.
#pragma once
#include <optional>
#include <utility>
#include <variant>

#include "engine/base/check.h"
#include "engine/base/error.h"

namespace bp {

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}       // NOLINT: implicit
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}   // NOLINT: implicit
  bool ok() const { return v_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { BP_CHECK(ok()); return std::get<0>(v_); }
  const T& value() const& { BP_CHECK(ok()); return std::get<0>(v_); }
  T&& value() && { BP_CHECK(ok()); return std::get<0>(std::move(v_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const& { BP_CHECK(!ok()); return std::get<1>(v_); }
  Error&& error() && { BP_CHECK(!ok()); return std::get<1>(std::move(v_)); }

 private:
  std::variant<T, Error> v_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit
  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const& { BP_CHECK(!ok()); return *error_; }
  Error&& error() && { BP_CHECK(!ok()); return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace bp

#define BP_CONCAT_(a, b) a##b
#define BP_CONCAT(a, b) BP_CONCAT_(a, b)
/// Returns the error of `expr` (a Status or Result) from the current function.
#define BP_TRY(expr)                                             \
  do {                                                           \
    auto&& bp_try_ = (expr);                                     \
    if (!bp_try_.ok()) return std::move(bp_try_).error();        \
  } while (0)
/// `BP_ASSIGN(auto x, f());` binds the value of f() or returns its error.
#define BP_ASSIGN(decl, expr) BP_ASSIGN_(BP_CONCAT(bp_res_, __LINE__), decl, expr)
#define BP_ASSIGN_(tmp, decl, expr)              \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).error();  \
  decl = std::move(tmp).value()
