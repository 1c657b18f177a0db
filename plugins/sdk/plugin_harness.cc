#include <signal.h>
#include <sys/wait.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/base/ids.h"
#include "engine/bus/bus.h"
#include "plugins/sdk/harness.h"

namespace bp::sdk {

// The daemon's part, on a thread that owns the ROUTER while the daemon "lives".
struct PluginHarness::Impl {
  PluginHarnessOptions options;
  std::string host_id, endpoint;
  ProcessId process;
  std::unique_ptr<bus::Context> context;
  std::unique_ptr<bus::Router> router;
  std::thread server;
  bool stopping = false;          // guarded, like all below
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<v1::StageMessage> to_send;
  ScriptedNode node;
  v1::AttemptRef ref;
  bool has_hello = false, has_result = false, acknowledge = false;
  uint64_t hellos = 0, results = 0;
  v1::HostHello hello;
  v1::AttemptResult result;
  Recorded recorded;

  void serve();
  void handle(const v1::StageMessage& m);
  void answer(v1::StageMessage m) { to_send.push_back(std::move(m)); }
  void stop_serving() {
    {
      std::lock_guard lock(mutex);
      stopping = true;
    }
    if (server.joinable()) server.join();
    router.reset();
  }
  Status start_serving() {
    stopping = false;
    BP_ASSIGN(router, bus::Router::bind(*context, bus::ListenOptions{endpoint, {}, {}, 0}));
    server = std::thread([this] { serve(); });
    return {};
  }
};

void PluginHarness::Impl::handle(const v1::StageMessage& m) {
  v1::StageMessage out;
  *out.mutable_ref() = m.ref();
  if (m.has_hello()) {
    hello = m.hello();
    has_hello = true;
    ++hellos;
    out.mutable_hello_ack();
    answer(out);
  } else if (m.has_beat()) {
    recorded.beats.push_back(m.beat());
  } else if (m.has_log()) {
    recorded.logs.push_back(m.log().level() + ": " + m.log().text());
  } else if (m.has_secret_put()) {
    recorded.secrets[m.secret_put().name()] = m.secret_put().value();
    out.mutable_secret_put_ack()->set_name(m.secret_put().name());
    answer(out);
  } else if (m.has_node_call()) {
    recorded.calls.push_back(m.node_call());
    if (!node) return;
    out.mutable_node_reply()->set_call_id(m.node_call().call_id());
    *out.mutable_node_reply()->mutable_reply() = node(m.node_call().node_id(), m.node_call().command());
    answer(out);
  } else if (m.has_result()) {
    result = m.result();
    has_result = true;
    ++results;
    if (!acknowledge) return;
    out.mutable_result_ack();
    answer(out);
  }
}

void PluginHarness::Impl::serve() {
  for (;;) {
    auto in = router->recv(Deadline::in_ms(5));
    std::lock_guard lock(mutex);
    if (stopping) return;
    if (in.ok()) {
      auto batch = bus::parse<v1::StageBatch>(in->payload);
      if (batch.ok()) {
        for (const auto& m : batch->messages()) handle(m);
      }
      changed.notify_all();
    }
    while (!to_send.empty()) {
      v1::StageBatch batch;
      *batch.add_messages() = to_send.front();
      if (!router->send(host_id, batch.SerializeAsString()).ok()) break;  // not there yet: kept
      to_send.pop_front();
    }
  }
}

PluginHarness::PluginHarness(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

PluginHarness::~PluginHarness() {
  (void)process_signal(impl_->process, SIGKILL);
  (void)process_wait_gone(impl_->process, Deadline::in_ms(5000));
  impl_->stop_serving();
}

Result<std::unique_ptr<PluginHarness>> PluginHarness::start(PluginHarnessOptions options) {
  auto impl = std::make_unique<Impl>();
  impl->host_id = random_id("host");
  impl->endpoint = "ipc://" + options.run_dir + "/stage.sock";
  BP_ASSIGN(impl->context, bus::Context::start());
  SpawnOptions spawn;
  spawn.program = options.host_program;
  spawn.args = {"--plugin", options.plugin, "--endpoint", impl->endpoint,
                "--host-id", impl->host_id, "--run-dir", options.run_dir};
  spawn.args.insert(spawn.args.end(), options.host_args.begin(), options.host_args.end());
  spawn.log_file = options.run_dir + "/host.log";
  impl->options = std::move(options);
  BP_TRY(impl->start_serving());
  auto process = process_spawn(spawn);
  if (!process.ok()) {
    impl->stop_serving();
    return process.error();
  }
  impl->process = *process;
  return std::unique_ptr<PluginHarness>(new PluginHarness(std::move(impl)));
}

void PluginHarness::set_node(ScriptedNode node) {
  std::lock_guard lock(impl_->mutex);
  impl_->node = std::move(node);
}

Result<v1::HostHello> PluginHarness::hello(Deadline deadline) {
  std::unique_lock lock(impl_->mutex);
  if (!impl_->changed.wait_for(lock, std::chrono::milliseconds(deadline.left_ms()),
                               [&] { return impl_->has_hello; })) {
    return Error{ErrorCode::kDeadlineExceeded, "no hello from host " + impl_->host_id, {}};
  }
  return impl_->hello;
}

void PluginHarness::send_attempt(const v1::AttemptRef& ref, const v1::RunAttempt& attempt) {
  v1::StageMessage m;
  *m.mutable_ref() = ref;
  *m.mutable_run() = attempt;
  std::lock_guard lock(impl_->mutex);
  impl_->ref = ref;
  impl_->answer(std::move(m));
}

void PluginHarness::send_cancel(int64_t deadline_ms) {
  v1::StageMessage m;
  m.mutable_cancel()->set_deadline_ms(deadline_ms);
  std::lock_guard lock(impl_->mutex);
  *m.mutable_ref() = impl_->ref;
  impl_->answer(std::move(m));
}

void PluginHarness::send_notice(const v1::NodeNotice& notice) {
  v1::StageMessage m;
  *m.mutable_node_notice() = notice;
  std::lock_guard lock(impl_->mutex);
  *m.mutable_ref() = impl_->ref;
  impl_->answer(std::move(m));
}

Result<v1::AttemptResult> PluginHarness::result(Deadline deadline, bool acknowledge) {
  std::unique_lock lock(impl_->mutex);
  impl_->acknowledge = acknowledge;
  if (!impl_->changed.wait_for(lock, std::chrono::milliseconds(deadline.left_ms()),
                               [&] { return impl_->has_result; })) {
    return Error{ErrorCode::kDeadlineExceeded, "no result from host " + impl_->host_id, {}};
  }
  return impl_->result;
}

Result<int> PluginHarness::exit_code(Deadline deadline) {
  for (;;) {
    int status = 0;
    pid_t got = ::waitpid(impl_->process.pid, &status, WNOHANG);
    if (got == impl_->process.pid) return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    if (got < 0) return Error{ErrorCode::kNotFound, "the host was reaped before", {}};
    if (deadline.passed()) return Error{ErrorCode::kDeadlineExceeded, "the host still runs", {}};
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void PluginHarness::go_away() { impl_->stop_serving(); }
Status PluginHarness::come_back() { return impl_->start_serving(); }
const ProcessId& PluginHarness::host() const { return impl_->process; }

Recorded PluginHarness::recorded() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->recorded;
}
uint64_t PluginHarness::hellos() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->hellos;
}
uint64_t PluginHarness::results_seen() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->results;
}

}  // namespace bp::sdk
