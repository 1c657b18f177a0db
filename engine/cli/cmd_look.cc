// list, show, watch, logs, doctor, generate: what changes nothing.
#include <fmt/format.h>

#include "engine/base/clock.h"
#include "engine/base/files.h"
#include "engine/base/limits.h"
#include "engine/cli/access.h"
#include "engine/cli/json_view.h"
#include "engine/cli/output.h"
#include "engine/cli/parse_words.h"
#include "engine/cli/progress.h"

namespace bp::cli {
namespace {

constexpr size_t kPromptBytes = 4 << 20;

/// `at`: empty (now), the number of an event, or a time.
Result<v1::RunView> show(Session& session, const std::string& id, const std::string& at = {}) {
  v1::ClientRequest request;
  request.mutable_show()->set_id(id);
  if (!at.empty() && at.size() < 10 && at.find_first_not_of("0123456789") == std::string::npos) {
    request.mutable_show()->set_at_event(std::stoull(at));
  } else if (!at.empty()) {
    BP_ASSIGN(int64_t wall_ms, parse_time_ms(at, SystemClock().wall_ms()));
    request.mutable_show()->set_at_wall_ms(wall_ms);
  }
  BP_ASSIGN(v1::ClientReply reply, session.ask(request));
  return std::move(*reply.mutable_run());
}

Result<v1::Access> ask_access(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  request.mutable_access()->set_id(o.id);
  BP_ASSIGN(v1::ClientReply reply, session.ask(request));
  return std::move(*reply.mutable_access());
}

/// The answer over the head's client port.
int answer_binary(const Options& o, const GenerateOptions& g) {
  auto access = ask_access(o);
  if (!access.ok()) return fail(o, access.error());
  bool newline = true;
  auto done = generate_binary(*access, g, [&](const v1::GenerateReply& r) {
    if (o.json) {
      print_line(to_json(r));
    } else if (!r.text().empty()) {
      std::fwrite(r.text().data(), 1, r.text().size(), stdout);
      std::fflush(stdout);
      newline = r.text().back() == '\n';
    }
    return true;
  });
  if (!newline) print_line("");
  return done.ok() ? 0 : fail(o, done.error());
}

}  // namespace

int run_access(const Options& o) {
  auto access = ask_access(o);
  if (!access.ok()) return fail(o, access.error());
  const std::string text = to_json(*access) + "\n";
  if (Status s = write_file_atomic(o.out_file, text, 0600); !s.ok()) return fail(o, s.error());
  access->clear_client_secret_key();  // it is in the file, and nowhere else
  print_line(
      o.json ? to_json(*access)
             : fmt::format("{} at {}: key in {}", access->name(), access->endpoint(), o.out_file));
  return 0;
}

int run_list(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  const FilterOptions& f = o.engine.filter;
  request.mutable_list()->set_all(o.all || f.any());
  request.mutable_list()->set_limit(o.engine.limit);
  request.mutable_list()->set_before_run_number(o.engine.before);
  if (f.any()) {
    auto filter = parse_filter(f, SystemClock().wall_ms());
    if (!filter.ok()) return fail(o, filter.error());
    *request.mutable_list()->mutable_filter() = std::move(*filter);
  }
  auto reply = session.ask(request);
  if (!reply.ok()) return fail(o, reply.error());
  const v1::RunList& list = reply->list();
  if (o.engine.count) {
    for (const auto& c : list.counts())
      print_line(o.json ? to_json(c) : fmt::format("{:<14} {}", state_word(c.state()), c.count()));
    return 0;
  }
  if (!o.json && list.next_before_run_number() != 0)
    fmt::print(stderr, "there are more: --before {}\n", list.next_before_run_number());
  if (!o.json) {
    const std::string text = list_text(list, SystemClock().wall_ms());
    print_line(text.substr(0, text.size() - 1));
    return 0;
  }
  std::string out = "[";
  for (const auto& run : list.runs()) out += (out.size() > 1 ? "," : "") + to_json(run);
  print_line(out + "]");
  return 0;
}

int run_show(const Options& o) {
  if (!o.engine.archive.empty()) return run_show_archived(o);
  Session session(o.paths);
  auto run = show(session, o.id, o.engine.at);
  if (!run.ok()) return fail(o, run.error());
  std::string text = o.json ? to_json(*run) : run_text(*run, SystemClock().wall_ms());
  if (!text.empty() && text.back() == '\n') text.pop_back();
  print_line(text);
  return 0;
}

int run_watch(const Options& o) {
  Session session(o.paths);
  auto run = wait_for(o, session, o.id, o.until_ready);
  if (!run.ok()) return fail(o, run.error());
  return report_end(o, *run);
}

int run_logs(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  auto* q = request.mutable_logs();
  q->set_id(o.id);
  q->set_stage(o.stage);
  q->set_process_key(o.process);
  q->set_follow(o.follow);
  auto print = [&](const v1::ClientReply& r) {
    if (!r.has_log()) return true;
    const v1::LogLine& l = r.log();
    // The final reply of a stream may carry an empty line.
    if (l.text().empty() && l.source().empty()) return true;
    print_line(o.json               ? to_json(l)
               : l.source().empty() ? l.text()
                                    : fmt::format("{} | {}", l.source(), l.text()));
    return true;
  };
  const Status s = session.stream(request, print, Deadline::in_ms(o.timeout_s * 1000));
  return s.ok() ? 0 : fail(o, s.error());
}

int run_doctor(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  request.mutable_doctor()->set_replay(o.replay);
  int errors = 0, warnings = 0, checks = 0;
  auto print = [&](const v1::ClientReply& r) {
    if (!r.has_finding()) return true;
    const v1::DoctorFinding& f = r.finding();
    if (f.check().empty() && f.text().empty()) return true;
    ++checks;
    errors += f.level() == "error";
    warnings += f.level() == "warn";
    std::string line = fmt::format("{:<5} {}: {}", f.level(), f.check(), f.text());
    if (!f.remedy().empty()) line += "\n      -> " + f.remedy();
    print_line(o.json ? to_json(f) : line);
    return true;
  };
  const Status s = session.stream(request, print, Deadline::in_ms(o.timeout_s * 1000));
  if (!s.ok()) return fail(o, s.error());
  if (!o.json) fmt::print(stderr, "{} checks, {} errors, {} warnings\n", checks, errors, warnings);
  return errors > 0 ? 1 : 0;
}

int run_generate(const Options& o) {
  GenerateOptions g = o.generate;
  if (g.prompt == "-") {
    auto prompt = read_input("-", kPromptBytes);
    if (!prompt.ok()) return fail(o, prompt.error());
    g.prompt = std::move(prompt).value();
  }
  if (o.binary) return answer_binary(o, g);
  Session session(o.paths);
  auto run = show(session, o.id);
  if (!run.ok()) return fail(o, run.error());
  if (run->endpoint().empty()) {
    return fail(o, Error{ErrorCode::kUnavailable,
                         fmt::format("deployment {} is {}: it has no endpoint", run->name(),
                                     state_word(run->state())),
                         fmt::format("Wait for it with `bp watch {} --until-ready`", run->name())});
  }
  bool newline = true;
  auto on_text = [&](std::string_view text) {
    if (o.json || text.empty()) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    newline = text.back() == '\n';
  };
  std::function<void(std::string_view)> on_event;
  if (o.json) on_event = [](std::string_view event) { print_line(std::string(event)); };
  auto done = generate(run->endpoint(), run->model(), g, on_text, on_event);
  if (!newline) print_line("");
  if (!done.ok()) return fail(o, done.error());
  if (!o.json && terminal()) {
    fmt::print(stderr, "[{} tokens in, {} out, {}]\n", done->prompt_tokens, done->completion_tokens,
               done->finish_reason);
  }
  return 0;
}

}  // namespace bp::cli
