#include <sys/eventfd.h>
#include <zmq.h>

#include <atomic>
#include <cerrno>
#include <map>

#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/bus/context.h"

namespace bp::bus {
namespace {
// What waits in either direction before reading pauses or sends are dropped.
constexpr int kPendingMax = 2 * limits::kSocketHighWater;
constexpr int kBudgetPerTurn = 256;

/// Shared with closures that the executor may run after the thread is gone.
struct Flow {
  std::atomic<int> posted{0};
  Fd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  void ring() {
    uint64_t one = 1;
    (void)!::write(wake.get(), &one, sizeof one);
  }
};

/// Outlives its socket while a closure that was posted still refers to it.
struct Handler {
  std::function<void(Incoming)> on_incoming;
  std::function<void(std::string)> on_text;
  std::function<void(std::string)> on_unreachable;
  std::atomic<bool> open{true};
};

struct Entry {
  std::unique_ptr<Router> router;
  std::unique_ptr<Dealer> dealer;
  std::shared_ptr<Handler> handler = std::make_shared<Handler>();
  void* raw() { return router ? raw_socket(*router) : raw_socket(*dealer); }
};

struct Outgoing {
  SocketThread::SocketId socket;
  std::string routing_id, payload;
};
}  // namespace

struct SocketThread::Impl {
  Impl(Context& c, Post p) : context(c), post(std::move(p)) {}
  void run();
  bool take_commands();
  void flush();
  void read(Entry& entry);
  SocketId add(std::shared_ptr<Entry> entry);

  Context& context;
  Post post;
  std::shared_ptr<Flow> flow = std::make_shared<Flow>();
  std::mutex mutex;
  // Guarded by mutex.
  SocketId next_id = 1;
  bool stop = false;
  std::map<SocketId, std::shared_ptr<Entry>> added;
  std::vector<SocketId> closed;
  std::vector<Outgoing> outgoing;
  std::map<SocketId, std::shared_ptr<Handler>> open;
  // Only on the thread.
  std::map<SocketId, std::shared_ptr<Entry>> entries;
  std::vector<Outgoing> sending;
  uint64_t dropped = 0;
  std::thread thread;
};

SocketThread::SocketThread(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<SocketThread>> SocketThread::start(Context& context, Post post) {
  auto impl = std::make_unique<Impl>(context, std::move(post));
  if (!impl->flow->wake) return errno_error("eventfd", errno);
  impl->thread = std::thread([raw = impl.get()] { raw->run(); });
  return std::unique_ptr<SocketThread>(new SocketThread(std::move(impl)));
}

SocketThread::~SocketThread() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
    for (auto& [id, handler] : impl_->open) handler->open = false;
  }
  impl_->flow->ring();
  impl_->thread.join();
}

SocketThread::SocketId SocketThread::Impl::add(std::shared_ptr<Entry> entry) {
  SocketId id;
  {
    std::lock_guard lock(mutex);
    id = next_id++;
    open[id] = entry->handler;
    added.emplace(id, std::move(entry));
  }
  flow->ring();
  return id;
}

Result<SocketThread::Listening> SocketThread::listen(
    ListenOptions options, std::function<void(Incoming)> on_message,
    std::function<void(std::string)> on_unreachable) {
  auto entry = std::make_shared<Entry>();
  // Made here and handed over through the mutex, which is the fence that libzmq asks for.
  BP_ASSIGN(entry->router, Router::bind(impl_->context, std::move(options)));
  entry->handler->on_incoming = std::move(on_message);
  entry->handler->on_unreachable = std::move(on_unreachable);
  std::string endpoint = entry->router->endpoint();
  return Listening{impl_->add(std::move(entry)), std::move(endpoint)};
}

Result<SocketThread::SocketId> SocketThread::dial(DialOptions options,
                                                  std::function<void(std::string)> on_message) {
  auto entry = std::make_shared<Entry>();
  BP_ASSIGN(entry->dealer, Dealer::dial(impl_->context, std::move(options)));
  entry->handler->on_text = std::move(on_message);
  return impl_->add(std::move(entry));
}

void SocketThread::send(SocketId socket, std::string routing_id, std::string payload) {
  bool first;
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->outgoing.size() >= kPendingMax) return;
    first = impl_->outgoing.empty();
    impl_->outgoing.push_back({socket, std::move(routing_id), std::move(payload)});
  }
  if (first) impl_->flow->ring();
}

void SocketThread::close(SocketId socket) {
  {
    std::lock_guard lock(impl_->mutex);
    auto it = impl_->open.find(socket);
    if (it == impl_->open.end()) return;
    it->second->open = false;
    impl_->open.erase(it);
    impl_->closed.push_back(socket);
  }
  impl_->flow->ring();
}

bool SocketThread::Impl::take_commands() {
  std::vector<SocketId> to_close;
  bool stopping;
  {
    std::lock_guard lock(mutex);
    for (auto& [id, entry] : added) entries.emplace(id, std::move(entry));
    added.clear();
    to_close.swap(closed);
    sending.swap(outgoing);
    stopping = stop;
  }
  flush();  // what was sent before a close leaves before it
  for (SocketId id : to_close) entries.erase(id);
  return !stopping;
}

void SocketThread::Impl::flush() {
  for (auto& o : sending) {
    auto it = entries.find(o.socket);
    if (it == entries.end()) continue;
    Status sent = it->second->router ? it->second->router->send(o.routing_id, o.payload)
                                     : it->second->dealer->send(o.payload);
    if (!sent.ok() && dropped++ % 1000 == 0) {
      BP_LOG(debug, "message.dropped", "reason={} total={}", sent.error().message, dropped);
    }
    if (!sent.ok() && sent.error().code == ErrorCode::kPeerLost &&
        it->second->handler->on_unreachable) {
      post([handler = it->second->handler, id = o.routing_id] {
        if (handler->open) handler->on_unreachable(id);
      });
    }
  }
  sending.clear();
}

void SocketThread::Impl::read(Entry& entry) {
  for (int i = 0; i < kBudgetPerTurn && flow->posted < kPendingMax; ++i) {
    Incoming message;
    if (entry.router) {
      auto got = entry.router->try_recv();
      if (!got.ok()) return;
      message = std::move(got).value();
    } else {
      auto got = entry.dealer->try_recv();
      if (!got.ok()) return;
      message.payload = std::move(got).value();
    }
    ++flow->posted;
    post([flow = flow, handler = entry.handler, m = std::move(message)]() mutable {
      const bool was_full = flow->posted-- >= kPendingMax;
      if (was_full) flow->ring();
      if (!handler->open) return;
      if (handler->on_incoming)
        handler->on_incoming(std::move(m));
      else
        handler->on_text(std::move(m.payload));
    });
  }
}

void SocketThread::Impl::run() {
  while (take_commands()) {
    std::vector<zmq_pollitem_t> items{{nullptr, flow->wake.get(), ZMQ_POLLIN, 0}};
    std::vector<std::shared_ptr<Entry>> polled;
    if (flow->posted < kPendingMax) {
      for (auto& [id, entry] : entries) {
        items.push_back({entry->raw(), 0, ZMQ_POLLIN, 0});
        polled.push_back(entry);
      }
    }
    if (zmq_poll(items.data(), static_cast<int>(items.size()), 1'000) < 0 && errno != EINTR) {
      BP_LOG(err, "socket.poll_failed", "reason={}", zmq_strerror(zmq_errno()));
      return;
    }
    if (items[0].revents) {
      uint64_t count;
      (void)!::read(flow->wake.get(), &count, sizeof count);
    }
    for (size_t i = 0; i < polled.size(); ++i) {
      if (items[i + 1].revents) read(*polled[i]);
    }
  }
  entries.clear();
}

}  // namespace bp::bus
