// The stage hosts of the simulated world: what they hear, do and say.
#include "tests/sim/host.h"

namespace bp::sim {

void World::to_host(const std::string& host_id, const std::string& payload) {
  Host* h = alive(host_id);
  v1::StageBatch batch;
  if (!h || !batch.ParseFromString(payload)) return;
  h->heard = true;
  h->heard_at = time.now;
  for (const auto& m : batch.messages()) {
    if (m.has_run() && !h->ref.run_id().size()) begin(*h, m);
    if (m.has_cancel() && h->acting) on_cancel(*h);
    if (m.has_result_ack() && h->result) die(host_id);
  }
}

// No two hosts may work at one stage of one run at a time.
void World::begin(Host& host, const v1::StageMessage& m) {
  for (const auto& [id, other] : hosts_) {
    if (other->living && other->acting && other->ref.run_id() == m.ref().run_id() &&
        other->ref.stage() == m.ref().stage()) {
      violations.push_back("two attempts of " + m.ref().stage() + " act at once: epochs " +
                           std::to_string(other->ref.epoch().counter()) + " and " +
                           std::to_string(m.ref().epoch().counter()));
    }
  }
  ++attempts_begun;
  host.ref = m.ref();
  host.mode = m.run().mode();
  host.acting = true;
  host.keeps = m.ref().stage() == "serve" && host.mode == v1::ATTEMPT_MODE_APPLY;
  host.ignores_cancel = time.chance(behaviour.ignore_cancel);
  const std::string id = host.id;
  beat(id);
  const bool calm = host.mode == v1::ATTEMPT_MODE_DESTROY;
  v1::AttemptResult result;
  if (time.chance(behaviour.crash)) return time.in(time.pick(0, 400), [this, id] { die(id); });
  if (time.chance(behaviour.hang)) {
    host.mute = host.ignores_cancel = true;
    return;
  }
  if (!calm && time.chance(behaviour.rewind)) {
    result.set_outcome(v1::AttemptResult::FAILED);
    result.mutable_error()->set_code("BP_PEER_LOST");
    result.set_rewind_to_stage("make");
  } else if (time.chance(behaviour.fail)) {
    result.set_outcome(v1::AttemptResult::FAILED);
    result.mutable_error()->set_code("BP_UNAVAILABLE");
    result.mutable_error()->set_message("not now");
  } else if (!calm && time.chance(behaviour.fail_for_good)) {
    result.set_outcome(v1::AttemptResult::FAILED);
    result.mutable_error()->set_code("BP_INVALID_ARGUMENT");
  } else if (host.keeps) {
    return time.in(time.pick(5, 300), [this, id] {
      if (Host* h = alive(id)) {
        h->ready = true;
        beat(id);
      }
    });
  } else {
    result.set_outcome(v1::AttemptResult::SUCCEEDED);
    (*result.mutable_outputs())["out"] = "made by " + std::to_string(m.ref().epoch().counter());
    result.set_handle("handle");
  }
  time.in(time.pick(1, 500), [this, id, result] { finish(id, result); });
}

void World::beat(const std::string& id) {
  Host* h = alive(id);
  if (!h || !h->acting || h->mute) return;
  v1::StageMessage m;
  m.mutable_beat()->mutable_progress()->set_done(static_cast<uint64_t>(time.now));
  m.mutable_beat()->set_handle("handle");
  if (time.chance(0.2)) m.mutable_beat()->set_checkpoint("at " + std::to_string(time.now));
  m.mutable_beat()->set_ready(h->ready);
  say(*h, m);
  time.in(500, [this, id] { beat(id); });
}

void World::on_cancel(Host& host) {
  if (host.cancelled || host.ignores_cancel) return;
  host.cancelled = true;
  v1::AttemptResult result;
  result.set_outcome(v1::AttemptResult::CANCELLED);
  time.in(time.pick(1, 300), [this, id = host.id, result] { finish(id, result); });
}

void World::finish(const std::string& id, v1::AttemptResult result) {
  Host* h = alive(id);
  if (!h || !h->acting) return;
  h->acting = false;
  h->result = std::make_unique<v1::AttemptResult>(std::move(result));
  repeat_result(id);
}

void World::repeat_result(const std::string& id) {
  Host* h = alive(id);
  if (!h) return;
  v1::StageMessage m;
  *m.mutable_result() = *h->result;
  say(*h, m);
  time.in(500, [this, id] { repeat_result(id); });
}

std::string small_recipe(const std::string& name) {
  return R"({"recipe_id": "sim", "recipe_mode": "raycluster", "deployment_name": ")" + name + R"(",
    "recipe_node_shape": "VM.GPU.A10.2",
    "input_object_storage": [{"par":
       "https://objectstorage.eu-frankfurt-1.oraclecloud.com/p/secret-token/n/ns/b/bucket/o/",
       "mount_location": "/models", "volume_size_in_gbs": 50, "include": ["m"]}],
    "recipe_node_pool_size": 2, "recipe_node_boot_volume_size_in_gbs": 200, "recipe_nvidia_gpu_count": 2,
    "recipe_ephemeral_storage_size": 100, "recipe_container_port": "8000",
    "recipe_raycluster_params": {"model_path_in_container": "/models/m", "head_node_num_cpus": "8",
      "head_node_num_gpus": "2", "head_node_cpu_mem_in_gbs": "64", "num_worker_nodes": "1",
      "worker_node_num_cpus": "8", "worker_node_num_gpus": "2", "worker_node_cpu_mem_in_gbs": "64"}})";
}

}  // namespace bp::sim
