#include "engine/daemon/asio_executor.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <unordered_map>

#include "engine/daemon/loop_watch.h"

namespace bp::daemon {

struct AsioExecutor::Impl {
  Impl(boost::asio::io_context& i, LoopWatch& w) : io(i), watch(w) {}
  boost::asio::io_context& io;
  LoopWatch& watch;
  TimerId next = 1;
  std::unordered_map<TimerId, std::unique_ptr<boost::asio::steady_timer>> timers;
};

AsioExecutor::AsioExecutor(boost::asio::io_context& io, LoopWatch& watch)
    : impl_(std::make_unique<Impl>(io, watch)) {}
AsioExecutor::~AsioExecutor() = default;

void AsioExecutor::post(std::function<void()> call) {
  boost::asio::post(impl_->io, [watch = &impl_->watch, call = std::move(call)] {
    LoopWatch::Turn turn(*watch, "posted");
    call();
  });
}

shell::Executor::TimerId AsioExecutor::after(int64_t delay_ms, std::function<void()> call) {
  const TimerId id = impl_->next++;
  auto timer = std::make_unique<boost::asio::steady_timer>(
      impl_->io, std::chrono::milliseconds(std::max<int64_t>(0, delay_ms)));
  timer->async_wait(
      [impl = impl_.get(), id, call = std::move(call)](const boost::system::error_code& ec) {
        // Cancelled ones may still be called, with an error or, when they were due, without: the
        // table decides.
        if (ec || impl->timers.erase(id) == 0) return;
        LoopWatch::Turn turn(impl->watch, "timer");
        call();
      });
  impl_->timers.emplace(id, std::move(timer));
  return id;
}

void AsioExecutor::cancel(TimerId timer) { impl_->timers.erase(timer); }

}  // namespace bp::daemon
