#include "engine/plan/recipe.h"

#include <boost/json.hpp>
#include <catch2/catch.hpp>

#include "engine/base/files.h"
#include "engine/base/limits.h"
#include "engine/plan/nearest.h"
#include "engine/plan/recipe_rules.h"

using namespace bp;
using namespace bp::plan;

namespace {

namespace json = boost::json;
const char* kPar = "https://objectstorage.example.com/p/T0PS3CRET/n/ns/b/bucket/o/";

std::string example(const std::string& name) {
  auto text = read_file(std::string(BP_SOURCE_DIR) + "/examples/recipes/" + name, 1 << 20);
  REQUIRE(text.ok());
  auto filled = fill_pars(*text, {Secret(kPar)});
  REQUIRE(filled.ok());
  return *filled;
}

/// The example with one change.
struct Spoiled {
  json::value tree = json::parse(example("every_field.json"));
  json::object& top() { return tree.as_object(); }
  json::object& params() { return top()["recipe_raycluster_params"].as_object(); }
  json::object& storage() { return top()["input_object_storage"].as_array()[0].as_object(); }
  ParsedRecipe parse() { return parse_recipe(json::serialize(tree)); }
  /// Exactly one problem, at `path`, whose text holds `text`.
  void check_one(const std::string& path, const std::string& text) {
    ParsedRecipe p = parse();
    INFO(format_problems(p.problems));
    REQUIRE(p.problems.size() == 1);
    CHECK(p.problems[0].path() == path);
    CHECK(format_problems(p.problems).find(text) != std::string::npos);
  }
};

const std::string kP = "$.recipe_raycluster_params.";

}  // namespace

TEST_CASE("our own recipes are valid once their address is filled in") {
  for (const char* name : {"quickstart.json", "every_field.json"}) {
    ParsedRecipe p = parse_recipe(example(name));
    INFO(name << "\n" << format_problems(p.problems));
    CHECK(p.ok());
  }
}

TEST_CASE("every field reaches the canonical recipe, numbers as strings too") {
  ParsedRecipe p = parse_recipe(example("every_field.json"));
  REQUIRE(p.ok());
  const v1::Recipe& r = p.recipe;
  CHECK(r.dialect() == "raycluster");
  CHECK(r.canonical_name() == "every-field");
  CHECK(r.node_pool_size() == 4);
  CHECK(r.gpus_per_node() == 2);
  CHECK(r.boot_volume_gbs() == 800);
  CHECK(r.ephemeral_storage_gbs() == 500);
  CHECK(r.container_port() == 8000);
  CHECK(r.cpus_per_node() == 26);
  CHECK(r.memory_gbs_per_node() == 400);
  CHECK(r.redis_port() == 6379);
  CHECK(r.rayclient_server_port() == 10001);
  REQUIRE(r.object_storage_size() == 1);
  CHECK(r.object_storage(0).exclude_size() == 2);
  CHECK(r.object_storage(0).par_secret() == "par-0");
  CHECK(p.secrets.at("par-0").reveal() == kPar);
}

TEST_CASE("defaults are the blueprint's") {
  ParsedRecipe p = parse_recipe(example("quickstart.json"));
  REQUIRE(p.ok());
  CHECK(p.recipe.redis_port() == 6379);
  CHECK(p.recipe.dashboard_port() == 8265);
  CHECK(p.recipe.metrics_export_port() == 8080);
  CHECK(p.recipe.rayclient_server_port() == 10001);
  CHECK(p.recipe.head_image_uri() == "vllm/vllm-openai:v0.7.2");
}

TEST_CASE("no secret shows in the redacted text or in a problem") {
  Spoiled s;
  s.params()["redis_port"] = kPar;
  s.top()["recipe_id"] = std::string("see ") + kPar;
  s.storage()["bucket_name"] = "also";
  s.top()[std::string("x") + kPar] = kPar;
  ParsedRecipe p = s.parse();
  REQUIRE_FALSE(p.ok());
  CHECK(format_problems(p.problems).find("T0PS3CRET") == std::string::npos);
  CHECK(p.recipe.DebugString().find("T0PS3CRET") == std::string::npos);
  Spoiled alone;
  alone.storage()["par"] = "https://h/p/T0PS3CRETT0PS3CRET/n/ns/b/bucket/o/";
  alone.params()["redis_port"] = "T0PS3CRETT0PS3CRET";
  alone.top()["pre_filled_sample_name"] = "T0PS3CRETT0PS3CRET";
  p = alone.parse();
  CHECK(p.problems.size() == 1);
  CHECK(format_problems(p.problems).find("T0PS3CRET") == std::string::npos);
  CHECK(p.recipe.json_redacted().find("T0PS3CRET") == std::string::npos);
  Spoiled broken;
  broken.storage()["par"] = "T0PS3CRET without any form";
  p = broken.parse();
  REQUIRE(p.problems.size() == 1);
  CHECK(format_problems(p.problems).find("T0PS3CRET") == std::string::npos);
  CHECK(p.recipe.DebugString().find("T0PS3CRET") == std::string::npos);
}

TEST_CASE("what is no recipe is one problem that names the place") {
  for (const char* text :
       {"", "not JSON", "{", "[1,2]", "\"x\"", "{\"a\":1} x", "{\"a\":\"\xff\"}"}) {
    ParsedRecipe p = parse_recipe(text);
    REQUIRE(p.problems.size() >= 1);
    CHECK(p.problems[0].path().substr(0, 1) == "$");
  }
  CHECK(parse_recipe("{\n \"a\": x}").problems[0].found().find("line 2 column") !=
        std::string::npos);
  CHECK(parse_recipe(std::string(limits::kRecipeBytes + 1, ' '))
            .problems[0]
            .found()
            .find("bytes of JSON") != std::string::npos);
  CHECK(parse_recipe(std::string(100000, '[')).problems[0].found().find("deeper than 32") !=
        std::string::npos);
}

TEST_CASE("all problems are reported at once") {
  ParsedRecipe p = parse_recipe(R"({"recipe_mode":"raycluster"})");
  CHECK(p.problems.size() == 9);  // every other required field
  p = parse_recipe("{}");
  CHECK(p.problems.size() == 10);
}

TEST_CASE("a duplicate key is a problem") {
  ParsedRecipe p = parse_recipe(R"({"recipe_mode":"service","a":[{"b":1,"b":2}]})");
  CHECK(p.problems[0].path() == "$.a[0].b");
}

TEST_CASE("other modes get one clear problem") {
  Spoiled s;
  s.top()["recipe_mode"] = "service";
  s.check_one("$.recipe_mode", "raycluster form: it is the one that is supported now");
  s.top()["recipe_mode"] = "raycuster";
  s.check_one("$.recipe_mode", "Did you mean raycluster?");
}

TEST_CASE("unknown fields are named with the nearest known one") {
  Spoiled s;
  s.params()["redis_prot"] = 1;
  s.check_one(kP + "redis_prot", "Did you mean redis_port?");
  Spoiled t;
  t.top()["recipe_replica_count"] = 1;
  t.check_one("$.recipe_replica_count", "belongs to other modes");
  Spoiled u;
  u.storage()["zzzzzzzzzzzzzzzz"] = 1;
  u.check_one("$.input_object_storage[0].zzzzzzzzzzzzzzzz", "Remove it");
  CHECK(edit_distance("kitten", "sitting") == 3);
}

TEST_CASE("every rule, broken once") {
  Spoiled s;
  SECTION("head and worker CPUs") {
    s.params()["worker_node_num_cpus"] = 25;
    s.check_one(kP + "worker_node_num_cpus", "26");
  }
  SECTION("head and worker memory") {
    s.params()["worker_node_cpu_mem_in_gbs"] = 1;
    s.check_one(kP + "worker_node_cpu_mem_in_gbs", "400");
  }
  SECTION("pool size") {
    s.top()["recipe_node_pool_size"] = 3;
    s.check_one("$.recipe_node_pool_size", "num_worker_nodes + 1");
  }
  SECTION("unknown shape") {
    s.top()["recipe_node_shape"] = "VM.GPU.A10.3";
    s.check_one("$.recipe_node_shape", "VM.GPU.A10");
  }
  SECTION("CPU shape") {
    s.top()["recipe_node_shape"] = "VM.Standard.E4.Flex";
    s.check_one("$.recipe_node_shape", "a shape with GPUs");
  }
  SECTION("CPUs beyond the shape") {
    s.params()["head_node_num_cpus"] = s.params()["worker_node_num_cpus"] = 31;
    ParsedRecipe p = s.parse();
    CHECK(p.problems.size() == 2);
  }
  SECTION("memory beyond the shape") {
    s.params()["head_node_cpu_mem_in_gbs"] = s.params()["worker_node_cpu_mem_in_gbs"] = 481;
    CHECK(s.parse().problems.size() == 2);
  }
  SECTION("GPUs beyond the shape") {
    s.top()["recipe_nvidia_gpu_count"] = 4;
    s.params()["head_node_num_gpus"] = s.params()["worker_node_num_gpus"] = 4;
    CHECK(s.parse().problems.size() == 3);
  }
  SECTION("zero GPUs") {
    s.top()["recipe_nvidia_gpu_count"] = 0;
    s.check_one("$.recipe_nvidia_gpu_count", "from 1");
  }
  SECTION("GPU counts differ") {
    s.params()["head_node_num_gpus"] = s.params()["worker_node_num_gpus"] = 1;
    CHECK(s.parse().problems.size() == 2);
  }
  SECTION("port twice") {
    s.params()["redis_port"] = 8000;
    s.check_one(kP + "redis_port", "recipe_container_port");
  }
  SECTION("port 0") {
    s.params()["redis_port"] = 0;
    s.check_one(kP + "redis_port", "1 to 65535");
  }
  SECTION("port too high") {
    s.top()["recipe_container_port"] = "65536";
    s.check_one("$.recipe_container_port", "65535");
  }
  SECTION("ephemeral above boot") {
    s.top()["recipe_ephemeral_storage_size"] = 801;
    s.check_one("$.recipe_ephemeral_storage_size", "800");
  }
  SECTION("boot too small") {
    s.top()["recipe_node_boot_volume_size_in_gbs"] = 10;
    s.check_one("$.recipe_node_boot_volume_size_in_gbs", "from 50");
  }
  SECTION("no storage") {
    s.top()["input_object_storage"] = json::array();
    s.check_one("$.input_object_storage", "0 entries");
  }
  SECTION("par and bucket") {
    s.storage()["bucket_name"] = "b";
    s.check_one("$.input_object_storage[0]", "both par and bucket_name");
  }
  SECTION("a bucket by name") {
    s.storage().erase("par");
    s.storage()["bucket_name"] = "b";
    s.check_one("$.input_object_storage[0].bucket_name", "a bucket by name");
    CHECK(s.parse().problems[0].remedy().find("pre-authenticated request") != std::string::npos);
  }
  SECTION("neither par nor bucket") {
    s.storage().erase("par");
    s.check_one("$.input_object_storage[0]", "neither");
  }
  SECTION("par of another form") {
    s.storage()["par"] = "https://h/p/t/n/ns/b/";
    s.check_one("$.input_object_storage[0].par", "/b/");
  }
  SECTION("par over ftp") {
    s.storage()["par"] = "ftp://h/p/t/n/ns/b/c/o/";
    s.check_one("$.input_object_storage[0].par", "https://");
  }
  SECTION("par with a bad port") {
    s.storage()["par"] = "http://h:PORT/p/t/n/ns/b/c/o/";
    s.check_one("$.input_object_storage[0].par", "port");
  }
  SECTION("mount not absolute") {
    s.storage()["mount_location"] = "models";
    s.check_one("$.input_object_storage[0].mount_location", "absolute");
  }
  SECTION("mount with ..") {
    s.storage()["mount_location"] = "/models/../etc";
    s.check_one("$.input_object_storage[0].mount_location", "absolute");
  }
  SECTION("volume") {
    s.storage()["volume_size_in_gbs"] = 0;
    s.check_one("$.input_object_storage[0].volume_size_in_gbs", "from 1");
  }
  SECTION("include of another type") {
    s.storage()["include"] = "x";
    s.check_one("$.input_object_storage[0].include", "array");
  }
  SECTION("model outside the mount") {
    s.params()["model_path_in_container"] = "/elsewhere/x";
    s.check_one(kP + "model_path_in_container", "/models");
  }
  SECTION("model not included") {
    s.params()["model_path_in_container"] = "/models/other";
    s.check_one(kP + "model_path_in_container", "include");
  }
  SECTION("wrong type") {
    s.params()["head_node_num_cpus"] = true;
    s.check_one(kP + "head_node_num_cpus", "found true");
  }
  SECTION("fraction") {
    s.params()["redis_port"] = 1.5;
    s.check_one(kP + "redis_port", "whole number");
  }
  SECTION("negative") {
    s.params()["redis_port"] = -1;
    s.check_one(kP + "redis_port", "whole number");
  }
  SECTION("number with text") {
    s.params()["redis_port"] = "80x";
    s.check_one(kP + "redis_port", "80x");
  }
  SECTION("huge number as text") {
    s.params()["redis_port"] = "99999999999999999999999";
    s.check_one(kP + "redis_port", "whole");
  }
  SECTION("name without a letter") {
    s.top()["deployment_name"] = "___";
    s.check_one("$.deployment_name", "a letter or digit");
  }
  SECTION("params of another type") {
    s.top()["recipe_raycluster_params"] = 3;
    s.check_one("$.recipe_raycluster_params", "an object");
  }
  SECTION("two volumes on one mount") {
    s.top()["input_object_storage"].as_array().push_back(
        s.top()["input_object_storage"].as_array()[0]);
    s.check_one("$.input_object_storage[1].mount_location", "/models");
  }
}

TEST_CASE("addresses are filled in for one or for all storages") {
  const std::string text = R"({"input_object_storage":[{"par":"a"},{}]})";
  auto filled = fill_pars(text, {Secret("x"), Secret("y")});
  REQUIRE(filled.ok());
  CHECK(*filled == R"({"input_object_storage":[{"par":"x"},{"par":"y"}]})");
  CHECK(fill_pars(text, {Secret("x"), Secret("y"), Secret("z")}).error().code ==
        ErrorCode::kInvalidArgument);
  CHECK(fill_pars("{}", {Secret("x")}).error().code == ErrorCode::kInvalidRecipe);
}

TEST_CASE("include entries take names, folders and patterns") {
  CHECK(entry_matches("a/b", "a/b"));
  CHECK(entry_matches("a/b", "a/b/c"));
  CHECK_FALSE(entry_matches("a/b", "a/bc"));
  CHECK(entry_matches("a/b/", "a/b/c"));
  CHECK(entry_matches("*.gguf", "a/b.gguf"));
  CHECK_FALSE(entry_matches("*.gguf", "a/b.bin"));
  CHECK(clean_absolute_path("//a//b/") == "/a/b");
  CHECK(clean_absolute_path("/") == "");
}
