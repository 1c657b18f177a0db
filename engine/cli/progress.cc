#include "engine/cli/progress.h"

#include <fmt/format.h>

#include "engine/base/clock.h"
#include "engine/cli/json_view.h"
#include "engine/cli/session.h"

namespace bp::cli {
namespace {

std::string amount(const v1::Progress& p) {
  if (p.unit().empty() || (p.done() == 0 && p.total() == 0)) return {};
  if (p.unit() == "bytes") {
    const double done = static_cast<double>(p.done()) / 1e6,
                 total = static_cast<double>(p.total()) / 1e6;
    return p.total() ? fmt::format("{:.1f}/{:.1f} MB", done, total)
                     : fmt::format("{:.1f} MB", done);
  }
  return p.total() ? fmt::format("{}/{} {}", p.done(), p.total(), p.unit())
                   : fmt::format("{} {}", p.done(), p.unit());
}

std::string seconds(int64_t ms) { return fmt::format("{:.1f} s", static_cast<double>(ms) / 1e3); }

const char* mark(v1::StageState state) {
  switch (state) {
    case v1::STAGE_STATE_SUCCEEDED:
    case v1::STAGE_STATE_READY:
      return "+";
    case v1::STAGE_STATE_RUNNING:
    case v1::STAGE_STATE_QUEUED:
    case v1::STAGE_STATE_CANCELLING:
      return ">";
    case v1::STAGE_STATE_BACKOFF:
      return "~";
    case v1::STAGE_STATE_FAILED:
      return "!";
    case v1::STAGE_STATE_DESTROYED:
    case v1::STAGE_STATE_SKIPPED:
      return "-";
    default:
      return " ";
  }
}

/// First line only, so that a redrawn block keeps its height.
std::string one_line(const std::string& text, size_t max) {
  std::string s = text.substr(0, text.find('\n'));
  return s.size() > max ? s.substr(0, max) + "..." : s;
}

std::string headline(const v1::RunView& run) {
  std::string s = fmt::format("{} ({})  {}", run.name(), run.id(), state_word(run.state()));
  if (!run.stand_in().empty()) s += "  on " + run.stand_in();
  if (run.recoveries() > 0) s += fmt::format("  recovered {} times", run.recoveries());
  return s;
}

/// Who must act next; empty when nobody must.
std::string next_line(const v1::RunView& run) {
  if (run.waiting_for().empty() || run_rests(run.state())) return {};
  return one_line(run.waiting_for(), 104);
}

/// Tenths of the work, so that a log gets ten lines of progress and not thousands.
uint64_t tenths(const v1::Progress& p) { return p.total() ? p.done() * 10 / p.total() : 0; }

}  // namespace

std::string state_word(v1::RunState state) {
  const auto* v = v1::RunState_descriptor()->FindValueByNumber(state);
  return v ? enum_word(v) : "unknown";
}

std::string state_word(v1::StageState state) {
  const auto* v = v1::StageState_descriptor()->FindValueByNumber(state);
  return v ? enum_word(v) : "unknown";
}

std::string stage_line(const v1::StageView& s, int64_t now_wall_ms) {
  std::string state = state_word(s.state());
  if (s.attempts_total() > 1) state += fmt::format(" (attempt {})", s.attempts_total());
  std::string line = fmt::format("{} {:<14} {:<24}", mark(s.state()), s.name(), state);
  if (s.started_wall_ms() > 0) {
    const int64_t end = s.ended_wall_ms() > 0 ? s.ended_wall_ms() : now_wall_ms;
    line += fmt::format(" {:>8}", seconds(std::max<int64_t>(0, end - s.started_wall_ms())));
  }
  const std::string work = amount(s.progress());
  if (!work.empty()) line += "  " + work;
  if (!s.progress().note().empty()) line += "  " + one_line(s.progress().note(), 60);
  if (s.retry_in_ms() > 0) line += "  next try in " + seconds(s.retry_in_ms());
  const bool failed = s.state() == v1::STAGE_STATE_BACKOFF || s.state() == v1::STAGE_STATE_FAILED;
  if (failed && !s.error().code().empty()) {
    line += fmt::format("  {}: {}", s.error().code(), one_line(s.error().message(), 160));
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

std::string run_text(const v1::RunView& run, int64_t now_wall_ms) {
  std::string out = headline(run) + "\n";
  out += fmt::format("epoch      {}.{}\n", run.epoch().incarnation(), run.epoch().counter());
  if (!run.model().empty()) out += "model      " + run.model() + "\n";
  if (!run.endpoint().empty()) out += "endpoint   " + run.endpoint() + "\n";
  if (!run.dashboard_url().empty()) out += "dashboard  " + run.dashboard_url() + "\n";
  if (!run.metrics_url().empty()) out += "metrics    " + run.metrics_url() + "\n";
  if (!run.client_endpoint().empty()) out += "client     " + run.client_endpoint() + "\n";
  if (const std::string next = next_line(run); !next.empty()) out += "next       " + next + "\n";
  out += "stages\n";
  for (const auto& s : run.stages()) out += "  " + stage_line(s, now_wall_ms) + "\n";
  if (run.nodes_size() > 0) out += "nodes\n";
  for (const auto& n : run.nodes()) {
    out += fmt::format("  {:<10} {:<16} {:<10} pid {}\n", n.node_id(), n.address(), n.state(),
                       n.agent().pid());
  }
  if (run.processes_size() > 0) out += "processes\n";
  for (const auto& p : run.processes()) {
    out += fmt::format("  {:<10} {:<10} pid {:<8} epoch {}.{}", p.process_key(), p.node_id(),
                       p.identity().pid(), p.epoch().incarnation(), p.epoch().counter());
    out += p.role() == "rank" ? fmt::format("  tp {} pp {}\n", p.tp_rank(), p.pp_rank()) : "\n";
  }
  if (run.has_error() && !run.error().code().empty()) {
    out += fmt::format("error      {}: {}\n           {}\n", run.error().code(),
                       run.error().message(), run.error().remedy());
  }
  for (const auto& s : run.survivors()) out += "survivor   " + s + "\n";
  return out;
}

std::string list_text(const v1::RunList& list, int64_t now_wall_ms) {
  std::string out = fmt::format("{:<24} {:<22} {:<12} {:<14} {:>8}  {}\n", "NAME", "ID", "STATE",
                                "STAGE", "AGE", "ENDPOINT");
  for (const auto& r : list.runs()) {
    out +=
        fmt::format("{:<24} {:<22} {:<12} {:<14} {:>6} s  {}\n", r.name(), r.id(),
                    state_word(r.state()), r.current_stage(),
                    std::max<int64_t>(0, now_wall_ms - r.created_wall_ms()) / 1000, r.endpoint());
  }
  return out;
}

void Progress::update(const v1::RunView& run) {
  if (terminal_)
    redraw(run);
  else
    append(run);
  std::fflush(out_);
}

void Progress::redraw(const v1::RunView& run) {
  if (drawn_lines_ > 0) fmt::print(out_, "\x1b[{}A\x1b[J", drawn_lines_);
  const int64_t now = SystemClock().wall_ms();
  // Lines are cut, because a wrapped line would break the count of lines to go up.
  fmt::print(out_, "{}\n", one_line(headline(run), 116));
  for (const auto& s : run.stages()) fmt::print(out_, "  {}\n", one_line(stage_line(s, now), 112));
  const std::string next = next_line(run);
  if (!next.empty()) fmt::print(out_, "  next: {}\n", next);
  drawn_lines_ = 1 + run.stages_size() + !next.empty();
}

void Progress::append(const v1::RunView& run) {
  const int64_t now = SystemClock().wall_ms();
  const std::string head = headline(run);
  if (head != last_run_) fmt::print(out_, "{}\n", head);
  last_run_ = head;
  for (const auto& s : run.stages()) {
    if (s.state() == v1::STAGE_STATE_PENDING) continue;
    const uint64_t work = s.state() == v1::STAGE_STATE_RUNNING ? tenths(s.progress()) : 0;
    const std::string key = fmt::format("{}/{}/{}/{}", static_cast<int>(s.state()), s.generation(),
                                        s.attempts_total(), work);
    std::string& last = last_[s.name()];
    if (last == key) continue;
    last = key;
    fmt::print(out_, "  {}\n", stage_line(s, now));
  }
}

}  // namespace bp::cli
