// Runs the plugin in a real bp-stage-host, with PluginHarness in the daemon's place.
// Usage: announce_test BP_STAGE_HOST PLUGIN
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "plugins/sdk/harness.h"

using namespace bp;

namespace {

void check(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "announce_test: %s\n", what);
  std::exit(1);
}

v1::AttemptResult run(const std::string& host, const std::string& plugin, const std::string& folder,
                      v1::AttemptMode mode, const std::string& handle) {
  auto harness = sdk::PluginHarness::start({host, plugin, folder, {}});
  check(harness.ok(), "bp-stage-host does not start");
  auto hello = (*harness)->hello(Deadline::in_ms(10'000));
  check(hello.ok() && hello->plugin() == "announce" && !hello->has_load_error(), "the plugin does not load");

  v1::EndpointReady endpoint;
  endpoint.set_url("http://127.64.7.10:8000");
  v1::AttemptRef ref;
  ref.set_run_id("r-1");
  ref.set_stage("announce");
  ref.set_attempt(1);
  v1::RunAttempt attempt;
  attempt.set_mode(mode);
  attempt.set_deployment_name("demo");
  attempt.set_handle(handle);
  (*attempt.mutable_inputs())["serve.endpoint"] = endpoint.SerializeAsString();
  (*attempt.mutable_options())["folder"] = folder + "/announced";
  (*harness)->send_attempt(ref, attempt);
  auto result = (*harness)->result(Deadline::in_ms(10'000));
  check(result.ok(), "no result");
  check((*harness)->exit_code(Deadline::in_ms(10'000)).ok(), "the host does not end");
  return *result;
}

}  // namespace

int main(int argc, char** argv) {
  check(argc == 3, "usage: announce_test BP_STAGE_HOST PLUGIN");
  const std::string folder = "/tmp/" + random_id("announce");
  check(make_dirs(folder).ok(), "no folder below /tmp");
  const std::string file = folder + "/announced/demo.json";

  auto made = run(argv[1], argv[2], folder, v1::ATTEMPT_MODE_APPLY, "");
  check(made.outcome() == v1::AttemptResult::SUCCEEDED, made.error().message().c_str());
  auto text = read_file(file, 4096);
  check(text.ok() && text->find("http://127.64.7.10:8000") != std::string::npos, "the file lacks the URL");

  auto again = run(argv[1], argv[2], folder, v1::ATTEMPT_MODE_APPLY, made.handle());
  check(again.outcome() == v1::AttemptResult::SUCCEEDED, "a second attempt fails");

  auto gone = run(argv[1], argv[2], folder, v1::ATTEMPT_MODE_DESTROY, made.handle());
  check(gone.outcome() == v1::AttemptResult::SUCCEEDED, "destroy fails");
  check(::access(file.c_str(), F_OK) != 0, "destroy left the file");
  (void)remove_tree(folder);
  std::puts("announce: ok");
}
