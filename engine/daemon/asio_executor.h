// Executor over Boost.Asio: what runs on the io_context's one thread.
#pragma once
#include <memory>

#include "engine/shell/world.h"

namespace boost::asio {
class io_context;
}

namespace bp::daemon {
class LoopWatch;

class AsioExecutor final : public shell::Executor {
 public:
  /// `watch` outlives it.
  AsioExecutor(boost::asio::io_context& io, LoopWatch& watch);
  ~AsioExecutor() override;
  void post(std::function<void()> call) override;
  TimerId after(int64_t delay_ms, std::function<void()> call) override;
  void cancel(TimerId timer) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bp::daemon
