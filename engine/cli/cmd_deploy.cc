// up, submit, plan: what takes a recipe.
#include <fmt/format.h>

#include <sstream>

#include "engine/base/files.h"
#include "engine/base/ids.h"
#include "engine/base/limits.h"
#include "engine/cli/json_view.h"
#include "engine/cli/outlook.h"
#include "engine/cli/output.h"
#include "engine/plan/deployment_plan.h"
#include "engine/plan/recipe.h"

namespace bp::cli {
namespace {

constexpr size_t kParFileBytes = 64 << 10;

/// The addresses in a file: one a line, blank lines and # comments left out.
Result<std::vector<Secret>> read_pars(const std::string& path) {
  BP_ASSIGN(const std::string text, read_input(path, kParFileBytes));
  std::istringstream in(text);
  std::vector<Secret> pars;
  for (std::string line; std::getline(in, line);) {
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos || line[begin] == '#') continue;
    const size_t end = line.find_last_not_of(" \t\r");
    pars.emplace_back(line.substr(begin, end - begin + 1));
  }
  return pars;
}

/// The recipe's text with its addresses filled in.
Result<std::string> read_recipe(const Options& o) {
  if (o.recipe_file == "-" && o.par_file == "-") {
    return Error{ErrorCode::kInvalidArgument, "recipe and --par-file: both are standard input", {}};
  }
  auto text = read_input(o.recipe_file, limits::kRecipeBytes);
  if (!text.ok()) {
    Error e = std::move(text).error().with_context("recipe");
    if (e.code == ErrorCode::kNotFound) e.code = ErrorCode::kInvalidArgument;
    return e;
  }
  if (o.par_file.empty()) return text;
  auto pars = read_pars(o.par_file);
  if (!pars.ok()) {
    Error e = std::move(pars).error().with_context("--par-file");
    if (e.code == ErrorCode::kNotFound) e.code = ErrorCode::kInvalidArgument;
    return e;
  }
  return plan::fill_pars(*text, *pars);
}

v1::ClientRequest submit_request(const Options& o, const std::string& recipe,
                                 const std::string& key) {
  v1::ClientRequest request;
  auto* s = request.mutable_submit();
  s->set_recipe_json(recipe);
  s->set_idempotency_key(key);
  s->set_provider(o.daemon.provider);
  s->set_device(o.daemon.device);
  s->set_workflow(o.workflow);
  return request;
}

void print_endpoint(const v1::RunView& run) {
  if (run.state() != v1::RUN_STATE_SERVING) return;
  print_line(fmt::format("endpoint {}", run.endpoint()));
  fmt::print(stderr, "model {} on {}; try: bp generate {} \"Hello\"\n", run.model(), run.stand_in(),
             run.name());
}

int wait_and_report(const Options& o, Session& session, const std::string& id) {
  auto run = wait_for(o, session, id, true);
  if (!run.ok()) return fail(o, run.error());
  if (!o.json) print_endpoint(*run);
  if (run->state() == v1::RUN_STATE_SERVING || run->state() == v1::RUN_STATE_SUCCEEDED) return 0;
  const int code = report_end(o, *run);
  if (code == 0) fmt::print(stderr, "bp: deployment {} was ended before it served\n", run->name());
  return 1;
}

/// Problems that this machine can see without a daemon. 0: none.
int check_recipe(const Options& o, const plan::ParsedRecipe& parsed) {
  if (parsed.ok()) return 0;
  v1::ErrorInfo info;
  for (const auto& p : parsed.problems) *info.add_problems() = p;
  return fail(o,
              Error{ErrorCode::kInvalidRecipe,
                    fmt::format("{} problems in {}", parsed.problems.size(), o.recipe_file),
                    {}},
              &info);
}

/// The key under which `up` submits: equal for the same recipe until a deployment of that name has
/// ended, so that `up` twice is one deployment and `up` after `stop` a new one.
Result<std::string> up_key(Session& session, const std::string& name, const std::string& recipe) {
  v1::ClientRequest request;
  request.mutable_list()->set_all(true);
  BP_ASSIGN(const v1::ClientReply reply, session.ask(request));
  const v1::RunView* last_ended = nullptr;
  for (const auto& run : reply.list().runs()) {
    if (run.name() != name || !run_rests(run.state()) || run.state() == v1::RUN_STATE_NEEDS_HUMAN)
      continue;
    if (!last_ended || run.created_wall_ms() > last_ended->created_wall_ms()) last_ended = &run;
  }
  const std::string key = "up-" + sha256_hex(recipe).substr(0, 32);
  return last_ended ? key + "-after-" + last_ended->id() : key;
}

/// Connects to the daemon of this user; starts one when none runs.
Status ensure_daemon(const Options& o, Session& session) {
  auto client = connect_or_revive(o.paths);
  if (client.ok()) {
    auto running =
        (*client)->daemon().embedded() ? read_embedded(o.paths) : Result<EmbeddedOptions>(o.daemon);
    if (running.ok() && !(*running == o.daemon)) {
      fmt::print(stderr,
                 "bp: a daemon runs already, with options of its own; `bp daemon stop` first to "
                 "change them\n");
    }
    session.adopt(std::move(client).value());
    return {};
  }
  if (client.error().code != ErrorCode::kNoDaemon) return std::move(client).error();
  if (!o.json) fmt::print(stderr, "starting bp-daemon (state in {})\n", o.paths.state_dir);
  const bool wanted_before = read_embedded(o.paths).ok();
  auto started = start_embedded(o.paths, o.daemon);
  if (!started.ok()) {
    // One that never came up is not to be started again by other commands.
    if (!wanted_before) BP_TRY(forget_embedded(o.paths));
    return std::move(started).error();
  }
  session.adopt(std::move(started).value());
  return {};
}

}  // namespace

int run_up(const Options& o) {
  auto text = read_recipe(o);
  if (!text.ok()) return fail(o, text.error());
  const plan::ParsedRecipe parsed = plan::parse_recipe(*text);
  if (int code = check_recipe(o, parsed)) return code;
  Session session(o.paths);
  if (Status s = ensure_daemon(o, session); !s.ok()) return fail(o, s.error());
  std::string key = o.idempotency_key;
  if (key.empty()) {
    auto made = up_key(session, parsed.recipe.canonical_name(), *text);
    if (!made.ok()) return fail(o, made.error());
    key = std::move(made).value();
  }
  v1::ErrorInfo info;
  auto reply = session.ask(submit_request(o, *text, key), &info);
  if (reply.ok()) {
    const auto& s = reply->submitted();
    if (!o.json) {
      fmt::print(stderr, "{} {} as {}{}\n", s.existed() ? "found" : "submitted", s.name(),
                 s.run_id(), s.stand_in().empty() ? "" : " on " + s.stand_in());
    }
    return wait_and_report(o, session, s.run_id());
  }
  if (reply.error().code != ErrorCode::kAlreadyExists) return fail(o, reply.error(), &info);
  // Live under another key: the very same recipe is waited for, another one is refused.
  v1::ClientRequest show;
  show.mutable_show()->set_id(parsed.recipe.canonical_name());
  auto live = session.ask(show);
  if (!live.ok()) return fail(o, live.error());
  if (live->run().recipe_digest() != sha256_hex(parsed.recipe.SerializeAsString())) {
    return fail(o, reply.error(), &info);
  }
  return wait_and_report(o, session, live->run().id());
}

int run_submit(const Options& o) {
  auto text = read_recipe(o);
  if (!text.ok()) return fail(o, text.error());
  Session session(o.paths);
  const std::string key = o.idempotency_key.empty() ? random_id("submit") : o.idempotency_key;
  v1::ErrorInfo info;
  auto reply = session.ask(submit_request(o, *text, key), &info);
  if (!reply.ok()) return fail(o, reply.error(), &info);
  const auto& s = reply->submitted();
  if (o.json) {
    print_line(to_json(s));
  } else {
    print_line(s.run_id());
    fmt::print(stderr, "{} {}{}\n", s.existed() ? "exists already:" : "submitted", s.name(),
               s.stand_in().empty() ? "" : " on " + s.stand_in());
  }
  return o.wait ? wait_and_report(o, session, s.run_id()) : 0;
}

int run_plan(const Options& o) {
  auto text = read_recipe(o);
  if (!text.ok()) return fail(o, text.error());
  const plan::ParsedRecipe parsed = plan::parse_recipe(*text);
  if (int code = check_recipe(o, parsed)) return code;
  auto outlook = look_outside(parsed, o);
  if (!outlook.ok()) {
    (void)fail(o, outlook.error());
    return 1;  // the recipe itself is sound; what it points at is not
  }
  print_line(o.json ? to_json(outlook->plan) : plan::format_plan(parsed.recipe, outlook->plan));
  if (outlook->unknown) {
    fmt::print(stderr, "bp: layers, bytes and objects are not known: {}\n    {}\n",
               outlook->unknown->message, outlook->unknown->what_to_do());
  }
  return 0;
}

}  // namespace bp::cli
