#include "tests/sim/points/script.h"

#include <google/protobuf/util/json_util.h>

#include "engine/base/files.h"
#include "engine/core/core.h"

namespace bp::sim {
namespace {

constexpr int64_t kTickMs = 10;
constexpr int64_t kAskAgainMs = 1'000;
constexpr int64_t kTroubleMs = 20'000;   // from then on the world is kind
constexpr int64_t kPatienceMs = 900'000;

v1::WorkflowDefinition deployment() {
  v1::WorkflowDefinition w;
  auto text = read_file(std::string(BP_SOURCE_DIR) + "/plugins/workflow.json", 1 << 20);
  if (text.ok() && google::protobuf::util::JsonStringToMessage(*text, &w).ok()) return w;
  return {};
}

void set_retry(v1::StageDefinition& s, uint32_t attempts) {
  auto& r = *s.mutable_retry();
  r.set_max_attempts(attempts);
  r.set_first_delay_ms(50);
  r.set_multiplier(2);
  r.set_max_delay_ms(2'000);
  r.set_jitter(0.2);
}

}  // namespace

std::string Recipe::to_string() const {
  return "seed=" + std::to_string(seed) + " runs=" + std::to_string(runs) +
         " stages=" + std::to_string(stages) + (builtin ? " builtin" : "") +
         (commands ? " commands" : "") + (trouble ? " trouble" : "") + (maps ? " maps" : "") +
         (waits ? " waits" : "") + (own ? " own" : "") + (shared ? " shared" : "");
}

struct Script::Order {
  std::string workflow, key, run_id;
  std::vector<Command> commands;
  int64_t at_ms = 0, asked_ms = -kAskAgainMs;
  uint64_t life = 0;
};

Script::Script(PointsWorld& world, const Recipe& recipe)
    : world_(world), recipe_(recipe), random_(recipe.seed * 7919 + 1) {
  make_orders();
}

v1::WorkflowDefinition Script::make_workflow(const std::string& name) {
  v1::WorkflowDefinition w;
  w.set_name(name);
  w.set_version(1);
  const uint64_t count = pick(1, uint64_t(recipe_.stages));
  for (uint64_t i = 0; i < count; ++i) {
    auto& s = *w.add_stages();
    s.set_name("s" + std::to_string(i));
    for (uint64_t before = 0; before < i; ++before) {
      if (pick(0, 2) > 0) s.add_after("s" + std::to_string(before));
    }
    const uint64_t kind = pick(0, 9);
    if (recipe_.waits && kind == 0) {
      s.set_sleep_ms(int64_t(pick(20, 2'000)));
      continue;
    }
    if (recipe_.waits && recipe_.commands && kind == 1) {
      s.set_wait_signal("go");
      continue;
    }
    s.set_plugin("p" + std::to_string(pick(0, 1)));
    set_retry(s, 50);
    s.set_run_timeout_ms(60'000);
    s.set_heartbeat_timeout_ms(5'000);
    s.set_has_destroy(pick(0, 3) == 0);
    const bool shared = recipe_.shared && (!recipe_.own || pick(0, 2) > 0);
    s.set_isolation(shared ? v1::ISOLATION_SHARED : v1::ISOLATION_OWN);
    if (recipe_.maps && kind == 2) {
      v1::ValueList list;
      for (uint64_t n = pick(1, 3); n > 0; --n) list.add_values("item " + std::to_string(n));
      s.mutable_map_over()->set_value(list.SerializeAsString());
      s.set_map_parallel_max(uint32_t(pick(0, 2)));
    }
  }
  return w;
}

void Script::make_orders() {
  const uint64_t count = pick(1, uint64_t(recipe_.runs));
  for (uint64_t i = 0; i < count; ++i) {
    auto order = std::make_shared<Order>();
    order->key = "key-" + std::to_string(i);
    order->at_ms = world_.time.now + int64_t(pick(0, 60));
    const bool deploy = recipe_.builtin && pick(0, 9) == 0;
    order->workflow = deploy ? "default" : "w" + std::to_string(i);
    v1::WorkflowDefinition w = deploy ? deployment() : make_workflow(order->workflow);
    auto at = [&](int64_t low, int64_t high) {
      return order->at_ms + int64_t(pick(uint64_t(low), uint64_t(high)));
    };
    if (deploy) order->commands.push_back({"stop", "stop-it", at(300, 3'000)});
    for (const auto& s : w.stages()) {
      if (!s.wait_signal().empty())
        order->commands.push_back({"signal", "signal-" + s.name(), at(0, 600)});
    }
    if (recipe_.commands && pick(0, 4) == 0) {
      const int64_t pause = at(0, 300);
      order->commands.push_back({"pause", "pause-1", pause});
      order->commands.push_back({"resume", "resume-1", pause + int64_t(pick(1, 400))});
    }
    if (recipe_.commands && pick(0, 9) == 0)
      order->commands.push_back({"cancel", "cancel-1", at(0, 500)});
    world_.workflows[order->workflow] = std::move(w);
    orders_.push_back(std::move(order));
  }
}

void Script::submit(Order& order) {
  order.asked_ms = world_.time.now;
  order.life = world_.lives;
  v1::ClientRequest r;
  auto& run = *r.mutable_submit_runs()->add_runs();
  run.set_workflow(order.workflow);
  run.set_idempotency_key(order.key);
  (*run.mutable_inputs())["recipe"] = "of " + order.key;
  std::shared_ptr<Order> mine;
  for (const auto& o : orders_) {
    if (o.get() == &order) mine = o;
  }
  world_.ask(r, [this, mine](const v1::ClientReply& reply) {
    if (!reply.has_runs_submitted() || reply.runs_submitted().runs_size() != 1) return;
    const auto& got = reply.runs_submitted().runs(0);
    if (got.run_id().empty()) return;  // refused for now: asked again
    mine->run_id = got.run_id();
    world_.ledger.acknowledged_submit(mine->key, mine->run_id);
  });
}

void Script::command(Order& order, Command& c) {
  v1::Event event;
  event.set_request_key(c.key);
  if (c.kind == "pause") event.mutable_pause_requested()->set_by("sim");
  if (c.kind == "resume") event.mutable_resume_requested()->set_by("sim");
  if (c.kind == "cancel") event.mutable_cancel_requested()->set_by("sim");
  if (c.kind == "stop") event.mutable_stop_requested()->set_by("sim");
  if (c.kind == "signal") {
    event.mutable_signal_received()->set_name("go");
    event.mutable_signal_received()->set_payload("payload of " + c.key);
  }
  c.asked = true;
  c.life = world_.lives;
  Status fed = world_.shell()->feed(order.run_id, std::move(event),
                                    [this, &c, id = order.run_id] { c.done = true;
                                      world_.ledger.acknowledged_command(id, c.key); });
  // What the core refuses (a signal to a run that has ended, a second pause) is answered too.
  if (!fed.ok() && !world_.vfs.dead()) c.done = true;
}

void Script::tick() {
  if (world_.up()) {
    for (auto& order : orders_) {
      if (world_.time.now < order->at_ms) continue;
      if (order->run_id.empty()) {
        if (order->life != world_.lives || world_.time.now - order->asked_ms > kAskAgainMs)
          submit(*order);
        continue;
      }
      for (auto& c : order->commands) {
        if (c.done || world_.time.now < c.at_ms || (c.asked && c.life == world_.lives)) continue;
        command(*order, c);
        if (world_.vfs.dead()) break;
      }
      if (world_.vfs.dead()) break;
    }
  }
  world_.time.in(kTickMs, [this] { tick(); });
}

bool Script::ended(const Order& order) {
  bool live = false;
  world_.shell()->each_run([&](const core::RunState& run) {
    live = live || (run.run_id == order.run_id && !core::is_ended(run.state()));
  });
  return !live;
}

bool Script::all_over() {
  if (!world_.up() || world_.vfs.dead()) return false;
  for (const auto& order : orders_) {
    if (order->run_id.empty()) return false;
    for (const auto& c : order->commands) {
      if (!c.done) return false;
    }
    if (!ended(*order)) return false;
  }
  return true;
}

bool Script::run() {
  tick();
  const int64_t begin = world_.time.now;
  bool over = world_.run_until([this] { return all_over(); }, kTroubleMs);
  world_.be_kind();
  over = over || world_.run_until([this] { return all_over(); }, kPatienceMs);
  if (over) {
    // Once more under the same keys: the runs that were made are found.
    for (auto& order : orders_) submit(*order);
    world_.run_until([] { return false; }, 50);
    over = world_.run_until(
        [this] { return world_.up() && world_.living_hosts() == 0; }, 60'000);
    if (!over && world_.ledger.violations().empty())
      world_.ledger.fail(Fault::kBroken, std::to_string(world_.living_hosts()) +
                                             " hosts live although every run has ended");
  } else if (world_.ledger.violations().empty()) {
    std::string who = "stuck after " + std::to_string((world_.time.now - begin) / 1'000) + " s:";
    for (const auto& order : orders_) {
      if (order->run_id.empty()) who += " " + order->key + " was never acknowledged;";
    }
    if (world_.up())
      world_.shell()->each_run([&](const core::RunState& run) {
        if (!core::is_ended(run.state())) who += " " + run.run_id + ": " + core::why(run) + ";";
      });
    world_.ledger.fail(Fault::kBroken, who);
  }
  if (world_.up() && !world_.vfs.dead()) world_.ledger.compare(world_.journal(), world_.may_refuse);
  return world_.ledger.violations().empty();
}

}  // namespace bp::sim
