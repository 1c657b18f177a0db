// Workflow definitions, limits, schedules, and the daemon's own pause.
#include <fmt/format.h>

#include "engine/base/ids.h"
#include "engine/base/limits.h"
#include "engine/cli/json_view.h"
#include "engine/cli/output.h"
#include "engine/cli/parse_words.h"
#include "engine/cli/progress.h"
#include "engine/cli/text_diff.h"

namespace bp::cli {

Result<v1::NewRun> run_template(const Options& o);  // cmd_runs.cc

namespace {

constexpr size_t kDefinitionBytes = 1 << 20;

int ask_and(const Options& o, const v1::ClientRequest& request,
            const std::function<void(const v1::ClientReply&)>& print) {
  Session session(o.paths);
  auto reply = session.ask(request);
  if (!reply.ok()) return fail(o, reply.error());
  print(*reply);
  return 0;
}

std::string key_of(const Options& o, const char* word) {
  return o.idempotency_key.empty() ? random_id(word) : o.idempotency_key;
}

Result<v1::WorkflowEntry> definition(Session& session, const std::string& name_and_version) {
  v1::ClientRequest request;
  auto* q = request.mutable_list_workflows();
  const size_t at = name_and_version.find('@');
  q->set_name(name_and_version.substr(0, at));
  if (at != std::string::npos) {
    BP_ASSIGN(int64_t version, parse_duration_ms(name_and_version.substr(at + 1) + "ms"));
    q->set_version(uint32_t(version));
  }
  q->set_definitions(true);
  BP_ASSIGN(v1::ClientReply reply, session.ask(request));
  const v1::WorkflowEntry* best = nullptr;
  for (const auto& w : reply.workflows().workflows()) {
    if (q->version() == 0 ? w.current() : w.version() == q->version()) best = &w;
  }
  if (!best) {
    return Error{ErrorCode::kNotFound, "no workflow \"" + name_and_version + "\"",
                 "`bp workflow list` shows what is registered"};
  }
  return *best;
}

void print_schedule(const Options& o, const v1::Schedule& s) {
  if (o.json) return print_line(to_json(s));
  print_line(fmt::format("{:<20} {:<18} {:<16} {:<14} next {}  last {} {}{}", s.name(), s.cron(),
                         s.zone().empty() ? "UTC" : s.zone(),
                         enum_word(v1::Overlap_descriptor()->FindValueByNumber(s.overlap())),
                         s.paused() ? "paused" : time_text(s.next_due_wall_ms()),
                         time_text(s.last_due_wall_ms()), s.last_run_id(),
                         s.buffered() ? "  one more waits" : ""));
}

}  // namespace

int run_workflow_register(const Options& o) {
  auto text = read_input(o.engine.file, kDefinitionBytes);
  if (!text.ok()) return fail(o, text.error());
  v1::ClientRequest request;
  request.mutable_register_workflow()->set_definition_json(*text);
  request.mutable_register_workflow()->set_request_key(key_of(o, "workflow"));
  return ask_and(o, request, [&](const v1::ClientReply& r) {
    for (const auto& w : r.workflows().workflows()) {
      print_line(o.json ? to_json(w)
                        : fmt::format("{}@{} {}", w.name(), w.version(), w.hash().substr(0, 12)));
    }
  });
}

int run_workflow_list(const Options& o) {
  v1::ClientRequest request;
  request.mutable_list_workflows()->set_name(o.id);
  return ask_and(o, request, [&](const v1::ClientReply& r) {
    for (const auto& w : r.workflows().workflows()) {
      print_line(o.json
                     ? to_json(w)
                     : fmt::format("{:<24} {:<6} {}  {}{}{} live runs",
                                   w.name() + "@" + std::to_string(w.version()),
                                   w.current() ? "newest" : "", time_text(w.registered_wall_ms()),
                                   w.builtin() ? "built in, " : "", w.live_runs(), ""));
    }
  });
}

int run_workflow_show(const Options& o) {
  Session session(o.paths);
  auto w = definition(session, o.id);
  if (!w.ok()) return fail(o, w.error());
  print_line(o.json ? to_json(*w) : definition_text(w->definition()));
  return 0;
}

int run_workflow_diff(const Options& o) {
  Session session(o.paths);
  auto a = definition(session, o.id);
  if (!a.ok()) return fail(o, a.error());
  auto b = definition(session, o.engine.other);
  if (!b.ok()) return fail(o, b.error());
  const std::string text =
      line_diff(definition_text(a->definition()), definition_text(b->definition()));
  if (text.empty()) {
    fmt::print(stderr, "the definitions are equal\n");
    return 0;
  }
  print_line(text.substr(0, text.size() - 1));
  return 1;
}

int run_limit_set(const Options& o) {
  v1::ClientRequest request;
  auto* l = request.mutable_put_limit();
  l->set_request_key(key_of(o, "limit"));
  l->mutable_limit()->set_key(o.engine.key);
  l->mutable_limit()->set_concurrency(o.engine.concurrency);
  l->mutable_limit()->set_rate_per_s(o.engine.rate_per_s);
  l->mutable_limit()->set_burst(o.engine.burst);
  return ask_and(o, request, [](const v1::ClientReply&) {});
}

int run_limit_list(const Options& o) {
  v1::ClientRequest request;
  request.mutable_list_limits();
  return ask_and(o, request, [&](const v1::ClientReply& r) {
    for (const auto& l : r.limits().limits()) {
      print_line(
          o.json ? to_json(l)
                 : fmt::format("{:<24} at a time {:<6} per second {:<8} in use {} waiting {}",
                               l.key(), l.concurrency(), l.rate_per_s(), l.in_use(), l.waiting()));
    }
  });
}

int run_schedule_set(const Options& o) {
  v1::ClientRequest request;
  auto* m = request.mutable_put_schedule();
  m->set_request_key(key_of(o, "schedule"));
  auto* s = m->mutable_schedule();
  s->set_name(o.engine.schedule);
  s->set_cron(o.engine.cron);
  s->set_zone(o.engine.zone);
  s->set_paused(o.engine.paused);
  auto overlap = parse_overlap(o.engine.overlap);
  if (!overlap.ok()) return fail(o, overlap.error());
  s->set_overlap(*overlap);
  if (!o.engine.catch_up.empty()) {
    auto ms = parse_duration_ms(o.engine.catch_up);
    if (!ms.ok()) return fail(o, ms.error());
    s->set_catch_up_ms(*ms);
  }
  auto run = run_template(o);
  if (!run.ok()) return fail(o, run.error());
  *s->mutable_run() = std::move(*run);
  return ask_and(o, request, [&](const v1::ClientReply& r) {
    for (const auto& one : r.schedules().schedules()) print_schedule(o, one);
  });
}

int run_schedule_drop(const Options& o) {
  v1::ClientRequest request;
  request.mutable_put_schedule()->mutable_schedule()->set_name(o.engine.schedule);
  request.mutable_put_schedule()->set_drop(true);
  request.mutable_put_schedule()->set_request_key(key_of(o, "schedule"));
  return ask_and(o, request, [](const v1::ClientReply&) {});
}

int run_schedule_list(const Options& o) {
  v1::ClientRequest request;
  request.mutable_list_schedules()->set_name(o.engine.schedule);
  if (!o.engine.schedule.empty()) request.mutable_list_schedules()->set_upcoming(o.engine.upcoming);
  return ask_and(o, request, [&](const v1::ClientReply& r) {
    if (o.json && !o.engine.schedule.empty()) return print_line(to_json(r.schedules()));
    for (const auto& one : r.schedules().schedules()) print_schedule(o, one);
    for (int64_t at : r.schedules().upcoming_wall_ms()) print_line("  " + time_text(at));
  });
}

int run_schedule_trigger(const Options& o) {
  v1::ClientRequest request;
  request.mutable_trigger_schedule()->set_name(o.engine.schedule);
  request.mutable_trigger_schedule()->set_request_key(key_of(o, "trigger"));
  return ask_and(o, request, [&](const v1::ClientReply& r) {
    for (const auto& run : r.runs_submitted().runs())
      print_line(o.json ? to_json(run) : run.run_id());
  });
}

int run_daemon_pause(const Options& o) {
  v1::ClientRequest request;
  request.mutable_pause_daemon()->set_paused(o.engine.paused);
  request.mutable_pause_daemon()->set_request_key(key_of(o, "pause"));
  return ask_and(o, request, [&](const v1::ClientReply&) {
    if (!o.json)
      fmt::print(stderr, "{}\n",
                 o.engine.paused ? "nothing is dispatched until `bp daemon resume`"
                                 : "work is dispatched");
  });
}

}  // namespace bp::cli
