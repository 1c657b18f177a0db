// The raycluster dialect of OCI AI Blueprints: fields, defaults and what a single field may hold.
#include "engine/plan/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>

#include "engine/base/ids.h"
#include "engine/base/limits.h"
#include "engine/plan/field_reader.h"
#include "engine/plan/json_text.h"
#include "engine/plan/nearest.h"
#include "engine/plan/recipe_rules.h"

namespace bp::plan {
namespace {

namespace json = boost::json;

constexpr uint32_t kPortMax = 65535;
constexpr uint32_t kVolumeGbsMax = 32768;  // the largest OCI block volume
constexpr uint32_t kBootGbsMin = 50;       // the smallest OCI boot volume
constexpr uint32_t kMemoryGbsMax = 65536;
constexpr uint32_t kCpusMax = 4096;
constexpr size_t kPathBytes = 1024;
constexpr size_t kImageBytes = 1024;
constexpr size_t kParBytes = 4096;
constexpr size_t kStoragesMax = 16;
constexpr size_t kFiltersMax = 1000;
constexpr const char* kDefaultImage = "vllm/vllm-openai:v0.7.2";

const char* kModes[] = {"raycluster", "service", "job", "update", "shared_node_pool", "team"};

/// What is wrong with a PAR URL, without quoting any of it; empty when it is sound.
std::string par_fault(std::string_view url) {
  size_t at = url.substr(0, 8) == "https://" ? 8 : url.substr(0, 7) == "http://" ? 7 : 0;
  if (at == 0) return "a text that starts with neither https:// nor http://";
  const size_t slash = url.find('/', at);
  std::string_view host = url.substr(at, slash == std::string_view::npos ? slash : slash - at);
  if (host.empty() || host.find_first_of("@ \\?#") != std::string_view::npos)
    return "no plain host";
  const size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && host.back() != ']') {
    const std::string_view port = host.substr(colon + 1);
    const bool digits = !port.empty() && port.size() <= 5 &&
                        port.find_first_not_of("0123456789") == std::string_view::npos;
    if (!digits || std::stoul(std::string(port)) > kPortMax)
      return "a port that is no number up to 65535";
  }
  if (slash == std::string_view::npos) return "no path";
  if (url.find_first_of(" \\?#", slash) != std::string_view::npos)
    return "a query, a fragment or a space";
  // /p/TOKEN/n/NAMESPACE/b/BUCKET/o/[PREFIX]
  at = slash;
  for (const char* mark : {"/p/", "/n/", "/b/"}) {
    if (url.substr(at, 3) != mark) return fmt::format("no {} where it belongs", mark);
    const size_t end = url.find('/', at + 3);
    if (end == std::string_view::npos || end == at + 3)
      return fmt::format("nothing after {}", mark);
    at = end;
  }
  if (url.substr(at) != "/o" && url.substr(at, 3) != "/o/") return "no /o/ where it belongs";
  return {};
}

void read_par(FieldReader& in, size_t index, ParsedRecipe& out, v1::ObjectStorage& storage) {
  std::string url = in.secret_text("par", kParBytes);
  if (url.empty()) return;
  const std::string fault = par_fault(url);
  if (!fault.empty()) {
    add_problem(out.problems, in.path_of("par"), fault,
                "https://HOST/p/TOKEN/n/NAMESPACE/b/BUCKET/o/",
                "Copy the whole address of the pre-authenticated request; it must allow listing");
    return;
  }
  storage.set_par_secret(fmt::format("par-{}", index));
  out.secrets.emplace(storage.par_secret(), Secret(std::move(url)));
}

void read_storage(const json::value& v, size_t index, ParsedRecipe& out) {
  const std::string path = fmt::format("$.input_object_storage[{}]", index);
  v1::ObjectStorage& s = *out.recipe.add_object_storage();
  if (!v.is_object()) {
    add_problem(out.problems, path, describe_json(v), "an object", "Write an object: { ... }");
    return;
  }
  FieldReader in(v.get_object(), path, out.problems);
  const bool par = in.has("par"), bucket = in.has("bucket_name");
  if (par && bucket) {
    add_problem(out.problems, path, "both par and bucket_name", "par alone", "Remove bucket_name");
  } else if (!par && !bucket) {
    add_problem(out.problems, path, "neither par nor bucket_name", "par",
                "Add the address of a pre-authenticated request as \"par\"");
  }
  if (par) read_par(in, index, out, s);
  if (bucket) s.set_bucket_name(in.text("bucket_name", limits::kNameBytes));
  if (bucket && !par) {
    // No provider of this release has an identity of its own at a store.
    add_problem(out.problems, in.path_of("bucket_name"), "a bucket by name", "a \"par\" in its place",
                "Make a pre-authenticated request of that bucket that allows listing, and give its "
                "address as \"par\"");
  }
  const std::string mount = in.text("mount_location", kPathBytes);
  s.set_mount_location(clean_absolute_path(mount));
  if (!mount.empty() && s.mount_location().empty()) {
    add_problem(out.problems, in.path_of("mount_location"), mount,
                "an absolute path below / without . and ..", "Write one such as /models");
  }
  s.set_volume_size_gbs(in.number("volume_size_in_gbs", 1, kVolumeGbsMax));
  for (std::string& e : in.texts("include", kFiltersMax)) s.add_include(std::move(e));
  for (std::string& e : in.texts("exclude", kFiltersMax)) s.add_exclude(std::move(e));
  in.report_unknown();
}

void read_storages(FieldReader& in, ParsedRecipe& out) {
  const std::string expected = fmt::format("an array of 1 to {} objects", kStoragesMax);
  const json::array* list = in.array("input_object_storage", expected);
  if (!list) return;
  if (list->empty() || list->size() > kStoragesMax) {
    add_problem(out.problems, in.path_of("input_object_storage"),
                fmt::format("{} entries", list->size()), expected,
                "List the storage that holds the model");
  }
  for (size_t i = 0; i < std::min(list->size(), kStoragesMax); ++i)
    read_storage((*list)[i], i, out);
}

RayclusterNumbers read_params(FieldReader& top, ParsedRecipe& out) {
  RayclusterNumbers n;
  const json::object* object = top.object("recipe_raycluster_params", "an object");
  if (!object) return n;
  v1::Recipe& r = out.recipe;
  FieldReader in(*object, "$.recipe_raycluster_params", out.problems);
  const std::string path = in.text("model_path_in_container", kPathBytes);
  r.set_model_path(clean_absolute_path(path));
  if (!path.empty() && r.model_path().empty()) {
    add_problem(out.problems, in.path_of("model_path_in_container"), path,
                "an absolute path below / without . and ..", "Write one such as /models/NAME");
  }
  n.head_cpus = in.number("head_node_num_cpus", 1, kCpusMax);
  n.worker_cpus = in.number("worker_node_num_cpus", 1, kCpusMax);
  n.head_gpus = in.number("head_node_num_gpus", 1, limits::kGpusPerNodeMax);
  n.worker_gpus = in.number("worker_node_num_gpus", 1, limits::kGpusPerNodeMax);
  n.head_memory_gbs = in.number("head_node_cpu_mem_in_gbs", 1, kMemoryGbsMax);
  n.worker_memory_gbs = in.number("worker_node_cpu_mem_in_gbs", 1, kMemoryGbsMax);
  const size_t before = out.problems.size();
  const uint32_t workers = in.number("num_worker_nodes", 0, limits::kNodesMax - 1);
  if (out.problems.size() == before) n.workers = workers;
  r.set_cpus_per_node(n.head_cpus);
  r.set_memory_gbs_per_node(n.head_memory_gbs);
  r.set_redis_port(in.number("redis_port", 1, kPortMax, 6379));
  r.set_dashboard_port(in.number("dashboard_port", 1, kPortMax, 8265));
  r.set_metrics_export_port(in.number("metrics_export_port", 1, kPortMax, 8080));
  r.set_rayclient_server_port(in.number("rayclient_server_port", 1, kPortMax, 10001));
  r.set_head_image_uri(in.text("head_image_uri", kImageBytes, kDefaultImage));
  r.set_worker_image_uri(in.text("worker_image_uri", kImageBytes, kDefaultImage));
  r.set_rayjob_image_uri(in.text("rayjob_image_uri", kImageBytes, kDefaultImage));
  in.report_unknown();
  return n;
}

/// Fields of the recipe format outside this dialect: some say where cloud nodes go or how things
/// are called, which changes nothing here; the others would silently do nothing and are refused.
void read_other_fields(FieldReader& in) {
  for (const char* key :
       {"recipe_compartment_ocid", "pre_filled_sample_name", "skip_capacity_validation",
        "skip_quota_validation", "recipe_node_image_ocid", "recipe_availability_domain",
        "recipe_node_labels", "service_endpoint_domain"}) {
    in.ignore(key);
  }
  for (const char* key : {"recipe_image_uri",
                          "recipe_container_command",
                          "recipe_container_command_args",
                          "recipe_container_command_use_shell",
                          "recipe_container_env",
                          "recipe_environment_secrets",
                          "recipe_container_secret_name",
                          "recipe_host_port",
                          "recipe_additional_ingress_ports",
                          "recipe_amd_gpu_count",
                          "recipe_container_cpu_count",
                          "recipe_container_memory_size",
                          "recipe_shared_memory_volume_size_limit_in_mb",
                          "recipe_replica_count",
                          "output_object_storage",
                          "input_file_system",
                          "local_filesystem",
                          "recipe_use_shared_node_pool",
                          "recipe_shared_node_pool_selector",
                          "multinode_num_nodes_to_use_from_shared_pool",
                          "multinode_rdma_enabled_in_shared_pool",
                          "recipe_flex_shape_ocpu_count",
                          "recipe_flex_shape_memory_size_in_gbs",
                          "recipe_startup_probe_params",
                          "recipe_liveness_probe_params",
                          "recipe_readiness_probe_params",
                          "recipe_pod_autoscaling_params",
                          "recipe_node_autoscaling_params",
                          "recipe_inference_gateway",
                          "recipe_prometheus_enabled",
                          "service_endpoint",
                          "recipe_team_info",
                          "mig_resource_request"}) {
    in.foreign(key);
  }
}

/// False when the mode is another one: then nothing else of the recipe can be judged.
bool read_mode(FieldReader& in, ParsedRecipe& out) {
  const std::string mode = in.text("recipe_mode", 64);
  if (mode.empty() || mode == "raycluster") {
    out.recipe.set_dialect("raycluster");
    return true;
  }
  const std::vector<std::string_view> modes(std::begin(kModes), std::end(kModes));
  const bool known = std::find(modes.begin(), modes.end(), mode) != modes.end();
  const std::string_view near = known ? std::string_view() : nearest_name(mode, modes, 4);
  add_problem(
      out.problems, in.path_of("recipe_mode"), fmt::format("\"{}\"", mode), "\"raycluster\"",
      known ? "Write the recipe in the raycluster form: it is the one that is supported now"
      : near.empty() ? "Use the raycluster form"
                     : fmt::format("Did you mean {}? The raycluster form is supported now", near));
  return known ? false : near == "raycluster";
}

void read_name(FieldReader& in, ParsedRecipe& out) {
  out.recipe.set_deployment_name(in.text("deployment_name", limits::kNameBytes));
  if (out.recipe.deployment_name().empty()) return;
  auto canonical = canonical_name(out.recipe.deployment_name());
  if (canonical.ok()) {
    out.recipe.set_canonical_name(*canonical);
  } else {
    add_problem(out.problems, in.path_of("deployment_name"), out.recipe.deployment_name(),
                "a name with a letter or digit", "Choose a name such as my-model");
  }
}

void read_top(const json::object& object, ParsedRecipe& out) {
  FieldReader in(object, "$", out.problems);
  if (!read_mode(in, out)) return;
  v1::Recipe& r = out.recipe;
  read_name(in, out);
  r.set_recipe_id(redact(in.text("recipe_id", limits::kNameBytes, std::string())));
  r.set_node_shape(in.text("recipe_node_shape", limits::kNameBytes));
  r.set_node_pool_size(in.number("recipe_node_pool_size", 1, limits::kNodesMax));
  r.set_boot_volume_gbs(
      in.number("recipe_node_boot_volume_size_in_gbs", kBootGbsMin, kVolumeGbsMax));
  r.set_ephemeral_storage_gbs(in.number("recipe_ephemeral_storage_size", 1, kVolumeGbsMax));
  r.set_gpus_per_node(in.number("recipe_nvidia_gpu_count", 1, limits::kGpusPerNodeMax));
  r.set_container_port(in.number("recipe_container_port", 1, kPortMax));
  read_storages(in, out);
  const RayclusterNumbers numbers = read_params(in, out);
  read_other_fields(in);
  in.report_unknown();
  check_raycluster_rules(r, numbers, out.problems);
}

/// Every text of the tree without bearer tokens; the value of each "par" without anything but its
/// host.
void redact_tree(json::value& v, bool is_par) {
  if (v.is_string()) {
    const std::string clean = redact(std::string_view(v.get_string()));
    const bool token_gone = clean.find("/p/***") != std::string::npos;
    v = json::string(is_par && !token_gone ? std::string("***") : clean);
  } else if (v.is_array()) {
    for (json::value& e : v.get_array()) redact_tree(e, is_par);
  } else if (v.is_object()) {
    json::object clean;
    for (auto& [key, value] : v.get_object()) {
      redact_tree(value, is_par || key == "par");
      clean[redact(std::string_view(key))] = std::move(value);
    }
    v = std::move(clean);
  }
}

std::string without(std::string text, std::string_view token) {
  for (size_t at = 0; (at = text.find(token, at)) != std::string::npos; at += 3) {
    text.replace(at, token.size(), "***");
  }
  return text;
}

/// Somebody may have pasted a token alone into another field: what the addresses show to be one is taken out
/// of everything that is printed.
void scrub_tokens(ParsedRecipe& out) {
  constexpr size_t kTokenBytesMin = 12;
  for (const auto& [name, secret] : out.secrets) {
    const std::string& url = secret.reveal();
    const size_t begin = url.find("/p/") + 3;
    const std::string_view token = std::string_view(url).substr(begin, url.find('/', begin) - begin);
    if (token.size() < kTokenBytesMin) continue;
    for (v1::Problem& p : out.problems) {
      p.set_path(without(p.path(), token));
      p.set_found(without(p.found(), token));
      p.set_expected(without(p.expected(), token));
      p.set_remedy(without(p.remedy(), token));
    }
    out.recipe.set_json_redacted(without(out.recipe.json_redacted(), token));
  }
}

}  // namespace

ParsedRecipe parse_recipe(std::string_view text) {
  ParsedRecipe out;
  std::vector<DuplicateKey> duplicates;
  auto parsed = parse_json_text(text, limits::kRecipeBytes, &duplicates);
  if (!parsed.ok()) {
    const bool large = parsed.error().code == ErrorCode::kTooLarge;
    add_problem(out.problems, "$", parsed.error().message,
                large ? fmt::format("at most {} bytes", limits::kRecipeBytes) : "one JSON object",
                large ? "Send a recipe, not data" : "Mend the JSON at that place");
    return out;
  }
  for (const DuplicateKey& d : duplicates) {
    add_problem(out.problems, d.path, "the field twice", "the field once", "Remove one of them");
  }
  if (parsed->is_object()) {
    read_top(parsed->get_object(), out);
  } else {
    add_problem(out.problems, "$", describe_json(*parsed), "one JSON object",
                "Start the recipe with {");
  }
  redact_tree(*parsed, false);
  out.recipe.set_json_redacted(json::serialize(*parsed));
  scrub_tokens(out);
  return out;
}

Result<std::string> fill_pars(std::string_view text, const std::vector<Secret>& pars) {
  auto parsed = parse_json_text(text, limits::kRecipeBytes);
  if (!parsed.ok()) return Error{ErrorCode::kInvalidRecipe, parsed.error().message, {}};
  json::value* list =
      parsed->is_object() ? parsed->get_object().if_contains("input_object_storage") : nullptr;
  if (!list || !list->is_array() || list->get_array().empty()) {
    return Error{ErrorCode::kInvalidRecipe,
                 "$.input_object_storage: found no entries, expected one for each address given",
                 {}};
  }
  json::array& entries = list->get_array();
  if (pars.empty() || (pars.size() != 1 && pars.size() != entries.size())) {
    return Error{ErrorCode::kInvalidArgument,
                 fmt::format("found {} pre-authenticated addresses, expected 1 or {}", pars.size(),
                             entries.size()),
                 {}};
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i].is_object()) continue;
    const bool bucket = entries[i].get_object().contains("bucket_name");
    if (!bucket) entries[i].get_object()["par"] = pars[pars.size() == 1 ? 0 : i].reveal();
  }
  return json::serialize(*parsed);
}

std::string format_problems(const std::vector<v1::Problem>& problems) {
  std::string out;
  for (const v1::Problem& p : problems) {
    out += fmt::format("{}: found {}, expected {}; {}\n", p.path(), p.found(), p.expected(),
                       p.remedy());
  }
  return out;
}

}  // namespace bp::plan
