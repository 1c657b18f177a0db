// The journal as a whole: backup, export, import, check, archive.
#include <fmt/format.h>

#include <filesystem>

#include "engine/cli/json_view.h"
#include "engine/cli/output.h"
#include "engine/cli/parse_words.h"

namespace bp::cli {
namespace {

/// Streams a task's progress; 0 when it found nothing wrong, else 1.
int task(const Options& o, v1::ClientRequest request) {
  std::error_code ec;
  auto* t = request.mutable_journal_task();
  if (!o.engine.file.empty()) t->set_path(std::filesystem::absolute(o.engine.file, ec).string());
  Session session(o.paths);
  int findings = 0;
  auto print = [&](const v1::ClientReply& r) {
    if (!r.has_journal_task()) return true;
    const v1::JournalTaskProgress& p = r.journal_task();
    if (o.json) {
      print_line(to_json(p));
    } else if (!r.final() && terminal()) {
      fmt::print(stderr, "\r{} {}/{} {}   ", p.progress().note(), p.progress().done(),
                 p.progress().total(), p.progress().unit());
    }
    for (const auto& line : p.findings()) {
      ++findings;
      if (!o.json) print_line(line);
    }
    if (r.final() && !o.json) {
      fmt::print(stderr, "{}{}{}: {} runs, {} bytes\n", terminal() ? "\r" : "",
                 p.progress().note().empty() ? "done" : p.progress().note(),
                 p.path().empty() ? "" : ", " + p.path(), p.runs(), p.bytes());
    }
    return true;
  };
  const Status s = session.stream(request, print, Deadline::in_ms(o.timeout_s * 1000));
  if (!s.ok()) return fail(o, s.error());
  return findings == 0 ? 0 : 1;
}

}  // namespace

int run_journal_backup(const Options& o) {
  v1::ClientRequest request;
  request.mutable_journal_task()->set_backup(true);
  return task(o, std::move(request));
}

int run_journal_export(const Options& o) {
  v1::ClientRequest request;
  auto* s = request.mutable_journal_task()->mutable_export_runs();
  if (!o.id.empty()) s->add_ids(o.id);
  return task(o, std::move(request));
}

int run_journal_check(const Options& o) {
  v1::ClientRequest request;
  auto* c = request.mutable_journal_task()->mutable_check();
  c->set_integrity(true);
  c->set_chain(true);
  c->set_invariants(true);
  return task(o, std::move(request));
}

int run_journal_archive(const Options& o) {
  v1::ClientRequest request;
  auto* a = request.mutable_journal_task()->mutable_archive();
  auto before = parse_time_ms(o.engine.filter.ended_before, SystemClock().wall_ms());
  if (!before.ok()) return fail(o, before.error());
  a->set_ended_before_wall_ms(*before);
  a->set_keep_newest(o.engine.keep_newest);
  return task(o, std::move(request));
}

int run_journal_rebuild_search(const Options& o) {
  v1::ClientRequest request;
  request.mutable_journal_task()->set_rebuild_search(true);
  return task(o, std::move(request));
}

int run_replay(const Options& o) {
  Session session(o.paths);
  v1::ClientRequest request;
  request.mutable_doctor()->set_replay(true);
  request.mutable_doctor()->set_id(o.id);
  bool differs = false;
  auto print = [&](const v1::ClientReply& r) {
    if (!r.has_finding() || r.finding().text().empty()) return true;
    differs |= r.finding().level() == "error";
    print_line(o.json ? to_json(r.finding()) : r.finding().text());
    return true;
  };
  const Status s = session.stream(request, print, Deadline::in_ms(o.timeout_s * 1000));
  if (!s.ok()) return fail(o, s.error());
  return differs ? 1 : 0;
}

}  // namespace bp::cli
