// Runs of any workflow: start, fork, control in bulk, history, values.
#include <fmt/format.h>

#include "engine/base/ids.h"
#include "engine/cli/json_view.h"
#include "engine/cli/output.h"
#include "engine/cli/parse_words.h"
#include "engine/cli/progress.h"

namespace bp::cli {
namespace {

constexpr uint32_t kRunsPerRequest = 500;

Result<v1::Selector> selector(const Options& o) {
  v1::Selector s;
  const FilterOptions& f = o.engine.filter;
  if (f.ids.empty() && !f.any()) {
    return Error{ErrorCode::kInvalidArgument, "no runs named",
                 "Give ids or names, or a filter such as --label team=a --state failed"};
  }
  for (const std::string& id : f.ids) s.add_ids(id);
  if (f.any()) {
    if (!f.ids.empty()) {
      return Error{ErrorCode::kInvalidArgument, "both ids and a filter", "Give one of them"};
    }
    BP_ASSIGN(*s.mutable_filter(), parse_filter(f, SystemClock().wall_ms()));
  }
  return s;
}

/// Prints one line per run; 0 when every one of them accepted.
int print_controlled(const Options& o, const v1::ControlledRuns& r) {
  int refused = 0;
  for (const auto& run : r.runs()) {
    refused += run.has_error();
    if (o.json) {
      print_line(to_json(run));
    } else if (run.has_error()) {
      fmt::print(stderr, "{}: {}\n", run.run_id(), run.error().message());
    } else {
      print_line(fmt::format("{} {}", run.run_id(), state_word(run.state())));
    }
  }
  if (!o.json)
    fmt::print(stderr, "{} runs{}, {} refused\n", r.matched(), o.engine.dry_run ? " match" : "",
               refused);
  return refused > 0 ? 2 : 0;
}

template <class Fill>
int control(const Options& o, Fill fill) {
  auto runs = selector(o);
  if (!runs.ok()) return fail(o, runs.error());
  v1::ClientRequest request;
  auto* m = request.mutable_control_runs();
  *m->mutable_runs() = std::move(*runs);
  m->set_request_key(o.idempotency_key.empty() ? random_id("control") : o.idempotency_key);
  m->set_dry_run(o.engine.dry_run);
  m->set_reason(o.reason);
  if (Status s = fill(m); !s.ok()) return fail(o, s.error());
  Session session(o.paths);
  auto reply = session.ask(request);
  if (!reply.ok()) return fail(o, reply.error());
  return print_controlled(o, reply->controlled_runs());
}

Result<v1::NewRun> new_run(const Options& o) {
  const EngineOptions& e = o.engine;
  v1::NewRun run;
  run.set_workflow(o.workflow);
  run.set_workflow_version(e.version);
  run.set_name(e.run_name);
  run.set_priority(e.priority);
  for (const auto& text : e.inputs) {
    BP_ASSIGN(auto input, parse_input(text));
    (*run.mutable_inputs())[input.first] = input.second;
  }
  for (const auto& text : e.options) {
    BP_ASSIGN(auto pair, parse_pair(text));
    (*run.mutable_options())[pair.first] = pair.second;
  }
  for (const auto& text : e.filter.labels) {
    BP_ASSIGN(auto pair, parse_pair(text));
    (*run.mutable_labels())[pair.first] = pair.second;
  }
  for (const auto& key : e.limit_keys) run.add_limit_keys(key);
  if (!e.delay.empty()) {
    BP_ASSIGN(int64_t delay_ms, parse_duration_ms(e.delay));
    run.set_start_after_ms(delay_ms);
  }
  return run;
}

}  // namespace

Result<v1::NewRun> run_template(const Options& o) { return new_run(o); }

int run_start(const Options& o) {
  auto one = new_run(o);
  if (!one.ok()) return fail(o, one.error());
  const uint32_t n = o.engine.runs;
  const std::string key = o.idempotency_key.empty() ? random_id("start") : o.idempotency_key;
  Session session(o.paths);
  int refused = 0;
  std::string last;
  for (uint32_t done = 0; done < n;) {
    v1::ClientRequest request;
    for (uint32_t i = done; i < std::min(n, done + kRunsPerRequest); ++i) {
      auto* run = request.mutable_submit_runs()->add_runs();
      *run = *one;
      run->set_idempotency_key(n == 1 ? key : key + "/" + std::to_string(i));
      if (n > 1 && !run->name().empty()) run->set_name(run->name() + "-" + std::to_string(i));
    }
    done += uint32_t(request.submit_runs().runs_size());
    auto reply = session.ask(request);
    if (!reply.ok()) return fail(o, reply.error());
    for (const auto& run : reply->runs_submitted().runs()) {
      if (run.run_id().empty()) {
        ++refused;
        fmt::print(stderr, "{}: {}\n", run.error_code(), run.error_message());
      } else {
        last = run.run_id();
        print_line(o.json ? to_json(run) : run.run_id());
      }
    }
  }
  if (refused > 0) return 2;
  if (!o.engine.wait || n != 1) return 0;
  auto run = wait_for(o, session, last, true);
  return run.ok() ? report_end(o, *run) : fail(o, run.error());
}

int run_pause(const Options& o) {
  return control(o, [](auto* m) { return m->set_pause(true), Status(); });
}
int run_resume(const Options& o) {
  return control(o, [](auto* m) { return m->set_resume(true), Status(); });
}
int run_cancel_many(const Options& o) {
  return control(o, [](auto* m) { return m->set_cancel(true), Status(); });
}
int run_stop_many(const Options& o) {
  return control(o, [](auto* m) { return m->set_stop(true), Status(); });
}
int run_retry_many(const Options& o) {
  return control(o, [](auto* m) { return m->set_retry(true), Status(); });
}
int run_release(const Options& o) {
  return control(
      o, [&](auto* m) { return m->mutable_release()->set_cancel(o.engine.cancel), Status(); });
}
int run_migrate(const Options& o) {
  return control(o, [&](auto* m) {
    m->mutable_migrate()->set_workflow(o.workflow);
    m->mutable_migrate()->set_workflow_version(o.engine.version);
    return Status();
  });
}

int run_signal(const Options& o) {
  return control(o, [&](auto* m) -> Status {
    BP_ASSIGN(auto pair, parse_input("payload=" + o.engine.payload));
    m->mutable_signal()->set_name(o.engine.signal);
    m->mutable_signal()->set_payload(pair.second);
    return {};
  });
}

int run_change(const Options& o) {
  return control(o, [&](auto* m) -> Status {
    auto* c = m->mutable_change();
    if (o.engine.set_priority) c->set_priority(o.engine.priority);
    for (const auto& text : o.engine.values) {
      BP_ASSIGN(auto pair, parse_pair(text));
      (*c->mutable_put_labels())[pair.first] = pair.second;
    }
    for (const auto& label : o.engine.drop_labels) c->add_drop_labels(label);
    return {};
  });
}

int run_fork(const Options& o) {
  v1::ClientRequest request;
  auto* f = request.mutable_fork();
  f->set_id(o.id);
  f->set_from_stage(o.engine.stage);
  f->set_at_event(o.engine.at_event);
  f->set_workflow(o.workflow);
  f->set_workflow_version(o.engine.version);
  f->set_name(o.engine.run_name);
  f->set_borrow(o.engine.borrow);
  f->set_idempotency_key(o.idempotency_key.empty() ? random_id("fork") : o.idempotency_key);
  for (const auto& text : o.engine.inputs) {
    auto input = parse_input(text);
    if (!input.ok()) return fail(o, input.error());
    (*f->mutable_put_inputs())[input->first] = input->second;
  }
  Session session(o.paths);
  auto reply = session.ask(request);
  if (!reply.ok()) return fail(o, reply.error());
  const v1::Submitted& s = reply->submitted();
  print_line(o.json ? to_json(s) : s.run_id());
  if (!o.engine.wait) return 0;
  auto run = wait_for(o, session, s.run_id(), true);
  return run.ok() ? report_end(o, *run) : fail(o, run.error());
}

std::string history_line(const Options& o, const v1::HistoryEntry& e) {
  if (o.json) return to_json(e);
  return fmt::format("{:>6}  {}  {:<18} {}{}", e.event(), time_text(e.wall_ms()), e.type(),
                     e.next(), e.json().empty() ? "" : "\n        " + e.json());
}

int run_history(const Options& o) {
  if (!o.engine.archive.empty()) return run_history_archived(o);
  v1::ClientRequest request;
  auto* h = request.mutable_history();
  h->set_id(o.id);
  h->set_after_event(o.engine.after_event);
  h->set_limit(o.engine.limit);
  h->set_bodies(o.engine.bodies || o.json);
  Session session(o.paths);
  auto print = [&](const v1::ClientReply& r) {
    for (const auto& e : r.history().entries()) {
      print_line(history_line(o, e));
    }
    return true;
  };
  const Status s = session.stream(request, print, Deadline::in_ms(o.timeout_s * 1000));
  return s.ok() ? 0 : fail(o, s.error());
}

int run_query(const Options& o) {
  v1::ClientRequest request;
  request.mutable_query()->set_id(o.id);
  for (const auto& name : o.engine.values) request.mutable_query()->add_values(name);
  Session session(o.paths);
  auto reply = session.ask(request);
  if (!reply.ok()) return fail(o, reply.error());
  const v1::RunValues& v = reply->values();
  if (o.engine.values.size() == 1 && !o.json) {  // the bytes themselves, for pipes
    const std::string& bytes = v.values().begin()->second;
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    return 0;
  }
  if (o.json) {
    print_line(to_json(v));
    return 0;
  }
  std::map<std::string, uint64_t> sorted(v.sizes().begin(), v.sizes().end());
  for (const auto& [name, size] : sorted) print_line(fmt::format("{:<40} {} bytes", name, size));
  return 0;
}

}  // namespace bp::cli
