#include "engine/node/agent.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <thread>

#include "engine/base/address_claim.h"
#include "engine/base/files.h"
#include "engine/base/limits.h"
#include "engine/base/log.h"
#include "engine/node/agent_impl.h"
#include "engine/node/convert.h"
#include "engine/node/inventory.h"

namespace bp::node {
namespace asio = boost::asio;
namespace {

constexpr int64_t kLeaseCheckMs = 100;
constexpr uint32_t kProtocol = 1;

// flock on WORK_DIR/agent.lock, held as long as the descriptor is open. A dying predecessor may
// hold it for some milliseconds more.
Result<Fd> take_lock(const std::string& path) {
  const Deadline deadline = Deadline::in_ms(1'000);
  for (;;) {
    Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd) return errno_error("open " + path, errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
      struct stat ours {
      }, now{};
      if (::fstat(fd.get(), &ours) == 0 && ::stat(path.c_str(), &now) == 0 &&
          ours.st_ino == now.st_ino) {
        const std::string pid = std::to_string(::getpid()) + "\n";
        if (::ftruncate(fd.get(), 0) != 0 || ::pwrite(fd.get(), pid.data(), pid.size(), 0) < 0) {
          return errno_error("write " + path, errno);
        }
        return fd;
      }
    } else if (errno != EWOULDBLOCK) {
      return errno_error("lock " + path, errno);
    }
    if (deadline.passed()) {
      auto who = read_file(path, 64);
      std::string pid = who.ok() ? *who : "";
      while (!pid.empty() && pid.back() == '\n') pid.pop_back();
      return Error{ErrorCode::kConflict, "another bp-node (pid " + pid + ") holds " + path,
                   "Use that agent, or end it first; its processes live on and are taken over"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// The address of this node, held likewise.
Result<Fd> take_address(const std::string& address) {
  const Deadline deadline = Deadline::in_ms(1'000);
  for (;;) {
    auto claim = claim_address(address);
    if (claim.ok() || claim.error().code != ErrorCode::kPortBusy || deadline.passed()) return claim;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

Agent::Agent(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Agent::~Agent() = default;

Agent::Impl::Impl(AgentOptions o, Fd lock_fd, Fd claim_fd, StateStore s)
    : options(std::move(o)),
      lock(std::move(lock_fd)),
      claim(std::move(claim_fd)),
      store(std::move(s)),
      table(io, store, {options.node_id, options.run_id, options.work_dir, options.bin_dir},
            [this](const v1::ProcessEnded&) { send_ended(); }),
      fetches(options.work_dir, options.cache_dir) {}

Result<std::unique_ptr<Agent>> Agent::open(AgentOptions options) {
  BP_TRY(make_dirs(options.work_dir));
  BP_TRY(make_dirs(options.work_dir + "/logs"));
  BP_TRY(make_dirs(options.work_dir + "/files"));
  BP_TRY(make_dirs(options.cache_dir));
  BP_ASSIGN(Fd lock, take_lock(options.work_dir + "/agent.lock"));
  BP_ASSIGN(Fd claim, take_address(options.address));
  BP_ASSIGN(auto store,
            StateStore::open(options.work_dir + "/agent.state", options.node_id, options.run_id));
  auto impl = std::make_unique<Impl>(std::move(options), std::move(lock), std::move(claim),
                                     std::move(store));
  BP_TRY(impl->table.adopt());
  BP_TRY(impl->start_link());
  return std::unique_ptr<Agent>(new Agent(std::move(impl)));
}

Status Agent::Impl::start_link() {
  BP_ASSIGN(auto keys, bus::load_or_make_key_pair(options.key_file));
  BP_ASSIGN(context, bus::Context::start());
  BP_ASSIGN(sockets, bus::SocketThread::start(*context, [this](std::function<void()> f) {
              asio::post(io, std::move(f));
            }));
  link = std::make_unique<DaemonLink>(options.daemon_file, std::move(keys), *sockets,
                                      [this](std::string payload) { on_message(payload); });
  inventory =
      take_inventory(options.cores, options.memory_bytes, options.work_dir, options.address);
  return {};
}

Status Agent::run() {
  Impl& a = *impl_;
  ::signal(SIGPIPE, SIG_IGN);
  a.signals.add(SIGTERM);
  a.signals.add(SIGINT);
  a.signals.async_wait([&a](const boost::system::error_code& ec, int number) {
    if (ec) return;
    BP_LOG(info, "agent.ends", "signal={}; {} processes live on", number, a.table.list().size());
    a.io.stop();
  });
  BP_LOG(info, "agent.started", "node={} run={} processes={}", a.options.node_id, a.options.run_id,
         a.table.list().size());
  a.beat_tick();
  a.lease_tick();
  a.io.run();
  a.fetches.stop();
  a.link.reset();
  a.sockets.reset();
  return {};
}

void Agent::Impl::beat_tick() {
  if (link->tick()) {
    send_hello();
  } else {
    send_beat();
  }
  send_ended();
  beat_timer.expires_after(std::chrono::milliseconds(limits::kNodeBeatMs));
  beat_timer.async_wait([this](const boost::system::error_code& ec) {
    if (!ec) beat_tick();
  });
}

void Agent::Impl::lease_tick() {
  table.check_leases();
  lease_timer.expires_after(std::chrono::milliseconds(kLeaseCheckMs));
  lease_timer.async_wait([this](const boost::system::error_code& ec) {
    if (!ec) lease_tick();
  });
}

void Agent::Impl::send_hello() {
  v1::NodeMessage m;
  auto* hello = m.mutable_hello();
  hello->set_node_id(options.node_id);
  hello->set_run_id(options.run_id);
  hello->set_address(options.address);
  if (auto self = process_identity(::getpid()); self.ok()) to_proto(*self, hello->mutable_agent());
  *hello->mutable_inventory() = inventory;
  for (auto& p : table.list()) *hello->add_processes() = std::move(p);
  hello->set_protocol(kProtocol);
  link->send(std::move(m));
}

void Agent::Impl::send_beat() {
  v1::NodeMessage m;
  for (auto& p : table.list()) *m.mutable_beat()->add_processes() = std::move(p);
  for (auto& f : fetches.all()) *m.mutable_beat()->add_fetches() = std::move(f);
  m.mutable_beat();
  link->send(std::move(m));
}

void Agent::Impl::send_ended() {
  if (!link) return;
  for (const auto& e : store.state().ended()) {
    v1::NodeMessage m;
    *m.mutable_process_ended() = e;
    link->send(std::move(m));
    ended_sent.insert(e.identity().pid());
  }
}

}  // namespace bp::node
