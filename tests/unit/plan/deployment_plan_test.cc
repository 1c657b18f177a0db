#include "engine/plan/deployment_plan.h"

#include <catch2/catch.hpp>

#include "engine/plan/llama_tensors.h"
#include "engine/plan/recipe.h"

using namespace bp;
using namespace bp::plan;

namespace {

v1::Recipe recipe_for(uint32_t nodes, uint32_t gpus, const std::string& shape = "VM.GPU.A10.2") {
  v1::Recipe r;
  r.set_dialect("raycluster");
  r.set_canonical_name("t");
  r.set_node_shape(shape);
  r.set_node_pool_size(nodes);
  r.set_gpus_per_node(gpus);
  r.set_boot_volume_gbs(100);
  r.set_ephemeral_storage_gbs(50);
  r.set_memory_gbs_per_node(400);
  r.set_model_path("/models/m");
  auto* s = r.add_object_storage();
  s->set_par_secret("par-0");
  s->set_mount_location("/models");
  s->set_volume_size_gbs(50);
  return r;
}

std::vector<TensorInfo> tensors_of(const ModelShape& s, FileFormat format, WeightType type) {
  std::vector<TensorInfo> out;
  auto add = [&](LlamaRole role, uint32_t layer) {
    TensorInfo t{llama_tensor_name(format, role, layer), type, llama_tensor_shape(s, role), 0, 1};
    for (uint64_t d : t.shape) t.size_bytes *= d;
    t.size_bytes = t.size_bytes / block_elements(type) * block_bytes(type);
    out.push_back(t);
  };
  for (LlamaRole r : kModelRoles) {
    if (r != LlamaRole::kLmHead || !s.tied_embedding) add(r, 0);
  }
  for (uint32_t l = 0; l < s.layers; ++l) {
    for (LlamaRole r : kLayerRoles) add(r, l);
  }
  return out;
}

ModelConfig config_of(const ModelShape& s, uint32_t max_position = 8192) {
  ModelConfig c;
  c.architecture = "llama";
  c.shape = s;
  c.max_position = max_position;
  return c;
}

const ModelShape kSmol{30, 576, 1536, 9, 3, 64, 49152, true};
const ModelShape k8b{32, 4096, 14336, 32, 8, 128, 128256, false};
const ModelShape k70b{80, 8192, 28672, 64, 8, 128, 128256, false};

ObjectSelection gguf_at_model() {
  ObjectSelection o;
  o.format = "gguf";
  o.model_file = "/models/m/x.gguf";
  return o;
}

std::string only_problem(const ObjectSelection& s) {
  INFO(format_problems(s.problems));
  REQUIRE(s.problems.size() == 1);
  return format_problems(s.problems);
}

}  // namespace

TEST_CASE("objects are selected, placed and recognised") {
  v1::Recipe r = recipe_for(2, 2);
  r.mutable_object_storage(0)->add_include("m");
  r.mutable_object_storage(0)->add_exclude("*.md");
  auto s = select_objects(r, {{0, "m/x.gguf", 100, "e1", "md5"},
                              {0, "m/", 0, "", ""},
                              {0, "m/README.md", 5, "", ""},
                              {0, "other/y.gguf", 7, "", ""}});
  INFO(format_problems(s.problems));
  REQUIRE(s.problems.empty());
  REQUIRE(s.objects.size() == 1);
  CHECK(s.objects[0].path() == "/models/m/x.gguf");
  CHECK(s.objects[0].etag() == "e1");
  CHECK(s.format == "gguf");
  CHECK(s.model_file == "/models/m/x.gguf");
}

TEST_CASE("a folder with config.json and safetensors is a model") {
  auto s = select_objects(recipe_for(1, 1),
                          {{0, "m/config.json", 1, "", ""}, {0, "m/model.safetensors", 9, "", ""}});
  CHECK(s.problems.empty());
  CHECK(s.format == "safetensors");
  CHECK(s.model_file == "/models/m");
}

TEST_CASE("what the buckets hold may be wrong") {
  v1::Recipe r = recipe_for(1, 1);
  const StoredObject model{0, "m/x.gguf", 10, "", ""};
  SECTION("an include that matches nothing") {
    r.mutable_object_storage(0)->add_include("m");
    r.mutable_object_storage(0)->add_include("n");
    CHECK(only_problem(select_objects(r, {model})).find("include[1]") != std::string::npos);
  }
  SECTION("names that leave the mount") {
    for (const char* name : {"../x", "/etc/passwd", "a/../../b", "a//b", "a/./b", "a\nb"}) {
      CHECK(only_problem(select_objects(r, {model, {0, name, 1, "", ""}})).find("object with") !=
            std::string::npos);
    }
  }
  SECTION("file and folder at one path") {
    CHECK(only_problem(
              select_objects(
                  r, {model, {0, "a", 1, "", ""}, {0, "a-b", 1, "", ""}, {0, "a/b", 1, "", ""}}))
              .find("as a folder") != std::string::npos);
  }
  SECTION("two objects at one path") {
    auto* second = r.add_object_storage();
    second->set_mount_location("/models/m");
    second->set_volume_size_gbs(1);
    CHECK(only_problem(select_objects(r, {model, {1, "a", 1, "", ""}, {0, "m/a", 1, "", ""}}))
              .find("two objects") != std::string::npos);
  }
  SECTION("more than the volume and the disks hold") {
    CHECK(select_objects(r, {{0, "m/x.gguf", uint64_t{200} * 1'000'000'000, "", ""}})
              .problems.size() == 3);
    CHECK(select_objects(r, {{0, "m/x.gguf", UINT64_MAX, "", ""}, {0, "m/y", UINT64_MAX, "", ""}})
              .problems.size() == 3);
  }
  SECTION("the model elsewhere") {
    CHECK(only_problem(select_objects(r, {{0, "n/x.gguf", 1, "", ""}}))
              .find("There is a model in /models/n") != std::string::npos);
  }
  SECTION("several models") {
    CHECK(
        only_problem(select_objects(r, {model, {0, "m/y.gguf", 1, "", ""}})).find("2 GGUF files") !=
        std::string::npos);
  }
  SECTION("nothing at all") {
    CHECK(only_problem(select_objects(r, {})).find("no object") != std::string::npos);
  }
}

TEST_CASE("the quickstart's plan is TP 2 x PP 2 with a pool of bounded size") {
  auto plan =
      make_deployment_plan(recipe_for(2, 2), gguf_at_model(), config_of(kSmol),
                           tensors_of(kSmol, FileFormat::kGguf, WeightType::kQ4_1), "local", "cpu");
  REQUIRE(plan.ok());
  CHECK(plan->stand_in() == "cpu stand-in for VM.GPU.A10.2");
  CHECK(plan->tp_size() == 2);
  CHECK(plan->pp_size() == 2);
  REQUIRE(plan->ranks_size() == 4);
  CHECK(plan->ranks(3).node_index() == 1);
  CHECK(plan->max_context_tokens() == 8192);
  CHECK(plan->kv_blocks() * plan->kv_block_tokens() >= 8192);
  uint64_t weights = 0;
  for (const auto& r : plan->ranks()) {
    CHECK(r.kv_bytes() <= uint64_t{256} << 20);
    weights += r.weight_bytes();
  }
  // Both ends of the pipeline hold the tied embedding; the KV head in the middle is held twice.
  CHECK(weights > plan->model().file_bytes());
  CHECK(plan->model().weight_type() == "Q4_1");
  const std::string text = format_plan(recipe_for(2, 2), *plan);
  CHECK(text.find("TP 2 x PP 2 = 4 ranks") != std::string::npos);
}

TEST_CASE("one rank holds what the file holds") {
  const auto tensors = tensors_of(kSmol, FileFormat::kGguf, WeightType::kQ8_0);
  auto plan = make_deployment_plan(recipe_for(1, 1), gguf_at_model(), config_of(kSmol), tensors,
                                   "local", "cpu");
  REQUIRE(plan.ok());
  CHECK(plan->ranks(0).weight_bytes() == plan->model().file_bytes());
}

TEST_CASE("what does not fit is refused with the nearest layout that does") {
  auto refused = [](const ModelShape& m, const v1::Recipe& r) {
    auto plan =
        make_deployment_plan(r, gguf_at_model(), config_of(m, 131072),
                             tensors_of(m, FileFormat::kGguf, WeightType::kBF16), "local", "cpu");
    REQUIRE_FALSE(plan.ok());
    CHECK(plan.error().code == ErrorCode::kDoesNotFit);
    return plan.error().message;
  };
  // 70B in BF16 is 141 GB: seven A10.2 nodes with their KV caches and buffers.
  CHECK(refused(k70b, recipe_for(2, 2)).find("nearest layout that fits is TP 2 x PP") !=
        std::string::npos);
  CHECK(refused(k70b, recipe_for(1, 1, "VM.GPU.A10.1")).find("TP 1 x PP") != std::string::npos);
  CHECK(refused(kSmol, recipe_for(31, 2)).find("PP 30") != std::string::npos);
  auto r = recipe_for(4, 2);
  r.set_memory_gbs_per_node(1);
  CHECK(refused(k8b, r).find("host memory") != std::string::npos);
}
