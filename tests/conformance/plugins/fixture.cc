#include "fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "engine/base/fd.h"

namespace bp::test {

uint32_t free_port() {
  Fd fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  BP_CHECK(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
  socklen_t size = sizeof a;
  BP_CHECK(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&a), &size) == 0);
  return ntohs(a.sin_port);
}

Deployment::Deployment() {
  recipe.set_canonical_name("demo");
  recipe.set_container_port(8000);
  recipe.set_redis_port(6379);
  recipe.set_rayclient_server_port(free_port());
  recipe.add_object_storage()->set_par_secret("par-0");
  plan.set_provider("local");
  plan.set_tp_size(2);
  plan.set_pp_size(2);
  plan.mutable_model()->set_name("/models/tiny");
  plan.mutable_model()->set_model_file("/models/tiny/tiny.gguf");
  auto* object = plan.add_objects();
  object->set_name("tiny/tiny.gguf");
  object->set_path("/models/tiny/tiny.gguf");
  object->set_size_bytes(1000);
  for (uint32_t i = 0; i < 2; ++i) {
    auto* node = plan.add_nodes();
    node->set_index(i);
    node->set_is_head(i == 0);
    node->set_gpus(2);
    node->set_cpus(2);
    auto* info = pool.add_nodes();
    info->set_node_id("n1-" + std::to_string(i));
    info->set_index(i);
    info->set_address("127.0.0.1");
    info->set_work_dir("/work/n1-" + std::to_string(i));
    *info->mutable_agent() = sdk::to_wire(*process_identity(::getpid()));
    for (uint32_t t = 0; t < 2; ++t) {
      auto* rank = plan.add_ranks();
      rank->set_rank(2 * i + t);
      rank->set_tp_rank(t);
      rank->set_pp_rank(i);
      rank->set_node_index(i);
    }
  }
  weights.set_model_path("files/models/tiny/tiny.gguf");
}

void set_inputs(sdk::StageHarness& h, const Deployment& d) {
  auto& inputs = *h.attempt.mutable_inputs();
  inputs["recipe"] = d.recipe.SerializeAsString();
  inputs["validate.plan"] = d.plan.SerializeAsString();
  inputs["provision.pool"] = d.pool.SerializeAsString();
  inputs["fetch_weights.weights"] = d.weights.SerializeAsString();
  (*h.attempt.mutable_secrets())["par-0"] = "http://127.0.0.1/p/token/n/ns/b/models/o/";
}

v1::NodeNotice ended_notice(const std::string& node_id, const v1::ProcessStatus& p,
                            const std::string& log_tail) {
  v1::NodeNotice n;
  n.set_node_id(node_id);
  auto* e = n.mutable_process_ended();
  e->set_process_key(p.process_key());
  e->set_role(p.role());
  *e->mutable_epoch() = p.epoch();
  e->set_reason("exited");
  e->set_log_tail(log_tail);
  return n;
}

v1::NodeCommandReply FakeNodes::operator()(const std::string& node_id, const v1::NodeCommand& c) {
  v1::NodeCommandReply reply;
  if (c.has_list()) {
    reply.mutable_list();
    for (const auto& [key, p] : processes) {
      if (key.rfind(node_id + "/", 0) == 0) *reply.mutable_list()->add_processes() = p;
    }
  } else if (c.has_start()) {
    const std::string key = node_id + "/" + c.start().process_key();
    auto& p = processes[key];
    if (!sdk::same_epoch(p.epoch(), c.epoch()) || p.process_key().empty()) {
      ++starts;
      p.set_process_key(c.start().process_key());
      p.set_role(c.start().role());
      *p.mutable_epoch() = c.epoch();
      *p.mutable_labels() = c.start().labels();
      p.mutable_identity()->set_pid(1000 + starts);
      started[key] = c.start();
      if (on_start) on_start(node_id, c.start());
    }
    *reply.mutable_started() = p;
  } else if (c.has_stop()) {
    processes.erase(node_id + "/" + c.stop().process_key());
  } else if (c.has_read_log()) {
    reply.mutable_log()->set_data("the log");
  }
  return reply;
}

FakeHead::FakeHead(const bus::KeyPair& keys, const std::string& control_public_key, uint32_t port) {
  context_ = std::move(*bus::Context::start());
  bus::ListenOptions o;
  o.endpoint = "tcp://127.0.0.1:" + std::to_string(port);
  o.keys = keys;
  o.authorize = [control_public_key](std::string_view key) {
    return key == control_public_key ? std::string("control") : std::string();
  };
  auto router = bus::Router::bind(*context_, std::move(o));
  BP_CHECK(router.ok());
  router_ = std::move(*router);
  thread_ = std::thread([this] { serve(); });
}

FakeHead::~FakeHead() {
  stop_ = true;
  thread_.join();
}

void FakeHead::set_status(const v1::HeadStatus& status) {
  std::lock_guard lock(mutex_);
  status_ = status;
}

v1::HeadStatus FakeHead::status() const {
  std::lock_guard lock(mutex_);
  return status_;
}

void FakeHead::answer(const v1::HeadControl& ask, v1::HeadControlReply* reply) {
  if (ask.has_status()) {
    *reply->mutable_status() = status();
  } else if (ask.has_canary()) {
    ++canaries_;
    if (fail_canary_) {
      reply->mutable_error()->set_code(std::string(error_name(ErrorCode::kPeerLost)));
      reply->mutable_error()->set_message("rank 3 is gone");
    } else {
      reply->mutable_canary()->set_first_token_ms(7);
    }
  } else if (ask.has_drain()) {
    ++drains_;
    reply->mutable_drained();
  } else if (ask.has_expect_group()) {
    if (on_expect) on_expect(ask.expect_group().group_epoch());
  }
}

void FakeHead::serve() {
  while (!stop_) {
    auto in = router_->recv(Deadline::in_ms(20));
    if (!in.ok()) continue;
    auto request = bus::parse<v1::HeadRequest>(in->payload);
    if (!request.ok()) continue;
    v1::HeadReply reply;
    reply.set_request_id(request->request_id());
    answer(request->control(), reply.mutable_control());
    (void)router_->send(in->peer.routing_id, reply.SerializeAsString());
  }
}

}  // namespace bp::test
