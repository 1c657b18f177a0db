// Which objects of the stores a deployment needs, where they go, and which of them is the model.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "engine/base/limits.h"
#include "engine/plan/deployment_plan.h"
#include "engine/plan/field_reader.h"
#include "engine/plan/recipe_rules.h"

namespace bp::plan {
namespace {

constexpr uint64_t kGb = 1'000'000'000;
constexpr size_t kProblemsMax = 50;

std::string storage_path(uint32_t index) {
  return fmt::format("$.input_object_storage[{}]", index);
}

/// What is wrong with an object's name as a path below a folder; empty when nothing is.
std::string name_fault(std::string_view name) {
  if (name.size() > limits::kObjectNameBytes) return fmt::format("a name of {} bytes", name.size());
  if (name.empty()) return "an empty name";
  if (name[0] == '/') return "an absolute name";
  for (unsigned char c : name) {
    if (c < 0x20 || c == 0x7f) return "a name with control characters";
  }
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find('/', at), name.size());
    const std::string_view part = name.substr(at, end - at);
    if (part == "." || part == ".." || part.empty()) return "a name with an empty part, . or ..";
    at = end + 1;
  }
  return {};
}

template <class List>
bool any_matches(const List& entries, std::string_view name, std::vector<bool>* used) {
  bool any = false;
  for (int i = 0; i < entries.size(); ++i) {
    if (!entry_matches(entries.Get(i), name)) continue;
    any = true;
    if (!used) break;
    (*used)[static_cast<size_t>(i)] = true;
  }
  return any;
}

/// Objects of one storage after include and exclude.
void select_from(const v1::Recipe& recipe, uint32_t index, const std::vector<StoredObject>& listing,
                 ObjectSelection& out) {
  const v1::ObjectStorage& s = recipe.object_storage(static_cast<int>(index));
  std::vector<bool> used(static_cast<size_t>(s.include_size()));
  uint64_t bytes = 0;
  for (const StoredObject& o : listing) {
    const bool folder_marker = !o.name.empty() && o.name.back() == '/';
    if (o.storage_index != index || folder_marker) continue;
    if (s.include_size() > 0 && !any_matches(s.include(), o.name, &used)) continue;
    if (any_matches(s.exclude(), o.name, nullptr)) continue;
    const std::string fault = name_fault(o.name);
    if (!fault.empty()) {
      if (out.problems.size() < kProblemsMax) {
        add_problem(
            out.problems, storage_path(index), fmt::format("an object with {}: {}", fault, o.name),
            "names that are paths below the mount location", "Rename the object or exclude it");
      }
      continue;
    }
    v1::PlannedObject p;
    p.set_storage_index(index);
    p.set_name(o.name);
    p.set_path(s.mount_location() + "/" + o.name);
    p.set_size_bytes(o.size_bytes);
    p.set_etag(o.etag);
    p.set_md5_base64(o.md5_base64);
    if (__builtin_add_overflow(bytes, o.size_bytes, &bytes)) bytes = UINT64_MAX;
    out.objects.push_back(std::move(p));
  }
  for (int i = 0; i < s.include_size(); ++i) {
    if (used[static_cast<size_t>(i)]) continue;
    add_problem(out.problems, fmt::format("{}.include[{}]", storage_path(index), i),
                fmt::format("no object below {}", s.include(i)), "at least one",
                "Name a whole object or folder as the bucket has it, or use * in a pattern");
  }
  if (bytes > s.volume_size_gbs() * kGb) {
    add_problem(
        out.problems, storage_path(index) + ".volume_size_in_gbs",
        fmt::format("{}", s.volume_size_gbs()),
        fmt::format("at least {}: the selected objects have {} bytes", bytes / kGb + 1, bytes),
        "Raise the volume's size, or select fewer objects");
  }
}

/// Two objects on one path, or one object's path as a folder of another's.
void check_collisions(ObjectSelection& out) {
  std::vector<std::string_view> paths;
  for (const v1::PlannedObject& p : out.objects) paths.push_back(p.path());
  std::sort(paths.begin(), paths.end());
  for (size_t i = 0; i < paths.size() && out.problems.size() < kProblemsMax; ++i) {
    if (i > 0 && paths[i] == paths[i - 1]) {
      add_problem(out.problems, "$.input_object_storage",
                  fmt::format("two objects for {}", paths[i]), "one object for each path",
                  "Exclude one of them");
    }
    const std::string folder = std::string(paths[i]) + "/";
    auto below = std::lower_bound(paths.begin(), paths.end(), std::string_view(folder));
    if (below != paths.end() && below->substr(0, folder.size()) == folder) {
      add_problem(out.problems, "$.input_object_storage",
                  fmt::format("{} as a file and as a folder", paths[i]), "one of them",
                  "Exclude one of them");
    }
  }
}

bool ends_with(std::string_view s, std::string_view end) {
  return s.size() >= end.size() && s.substr(s.size() - end.size()) == end;
}

/// What lies directly in one folder.
struct Folder {
  bool config = false;
  bool safetensors = false;
  std::vector<std::string> ggufs;
  bool is_model() const { return (config && safetensors) || ggufs.size() == 1; }
};

std::map<std::string, Folder> folders_of(const ObjectSelection& s) {
  std::map<std::string, Folder> folders;
  for (const v1::PlannedObject& p : s.objects) {
    const size_t slash = p.path().rfind('/');
    Folder& f = folders[p.path().substr(0, slash)];
    const std::string_view file = std::string_view(p.path()).substr(slash + 1);
    if (file == "config.json") f.config = true;
    if (ends_with(file, ".safetensors")) f.safetensors = true;
    if (ends_with(file, ".gguf")) f.ggufs.push_back(p.path());
  }
  return folders;
}

std::string describe_folder(const Folder* f) {
  if (!f) return "no object in that folder";
  if (f->ggufs.size() > 1)
    return fmt::format("{} GGUF files, the first being {}", f->ggufs.size(), f->ggufs[0]);
  if (f->config) return "config.json without *.safetensors";
  if (f->safetensors) return "*.safetensors without config.json";
  return "objects, none of them a model's";
}

void find_model(const v1::Recipe& recipe, ObjectSelection& out) {
  const std::string& wanted = recipe.model_path();
  const auto folders = folders_of(out);
  for (const v1::PlannedObject& p : out.objects) {
    if (p.path() == wanted && ends_with(wanted, ".gguf")) {
      out.model_file = wanted;
      out.format = "gguf";
      return;
    }
  }
  auto it = folders.find(wanted);
  const Folder* here = it == folders.end() ? nullptr : &it->second;
  if (here && here->config && here->safetensors) {
    out.model_file = wanted;
    out.format = "safetensors";
    return;
  }
  if (here && here->ggufs.size() == 1) {
    out.model_file = here->ggufs[0];
    out.format = "gguf";
    return;
  }
  std::string remedy = "Put one .gguf file, or config.json with *.safetensors, in that folder";
  if (here && here->ggufs.size() > 1)
    remedy = fmt::format("Name the file itself, such as {}", here->ggufs[0]);
  else {
    for (const auto& [path, folder] : folders) {
      if (!folder.is_model()) continue;
      remedy = fmt::format("There is a model in {}: set model_path_in_container to it", path);
      break;
    }
  }
  add_problem(out.problems, "$.recipe_raycluster_params.model_path_in_container",
              fmt::format("{} in {}", describe_folder(here), wanted),
              "a folder with one .gguf file, or with config.json and *.safetensors",
              std::move(remedy));
}

/// The blueprint's rule: a node's disks hold the model one and a half times.
void check_disks(const v1::Recipe& recipe, ObjectSelection& out) {
  uint64_t bytes = 0;
  for (const v1::PlannedObject& p : out.objects) {
    if (__builtin_add_overflow(bytes, p.size_bytes(), &bytes)) bytes = UINT64_MAX;
  }
  const uint64_t need_gbs = bytes / 2 / kGb * 3 + (bytes / 2 % kGb * 3 + kGb - 1) / kGb;
  const struct {
    const char* path;
    uint32_t gbs;
  } disks[] = {{"$.recipe_ephemeral_storage_size", recipe.ephemeral_storage_gbs()},
               {"$.recipe_node_boot_volume_size_in_gbs", recipe.boot_volume_gbs()}};
  for (const auto& d : disks) {
    if (d.gbs >= need_gbs) continue;
    add_problem(
        out.problems, d.path, fmt::format("{}", d.gbs),
        fmt::format("at least {}: 1.5 times the {} bytes of the selected objects", need_gbs, bytes),
        "Raise it, or select fewer objects");
  }
}

}  // namespace

ObjectSelection select_objects(const v1::Recipe& recipe, const std::vector<StoredObject>& listing) {
  ObjectSelection out;
  if (listing.size() > static_cast<size_t>(limits::kObjectsMax)) {
    add_problem(out.problems, "$.input_object_storage", fmt::format("{} objects", listing.size()),
                fmt::format("at most {}", limits::kObjectsMax),
                "Point to a smaller bucket, or use a prefix");
    return out;
  }
  for (int i = 0; i < recipe.object_storage_size(); ++i) {
    select_from(recipe, static_cast<uint32_t>(i), listing, out);
  }
  check_collisions(out);
  find_model(recipe, out);
  check_disks(recipe, out);
  return out;
}

}  // namespace bp::plan
