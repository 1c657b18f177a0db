// What needs no daemon: verify, restore, import, and runs of an archive.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <optional>

#include "engine/base/fd.h"
#include "engine/base/files.h"
#include "engine/cli/json_view.h"
#include "engine/cli/output.h"
#include "engine/cli/progress.h"
#include "engine/shell/history_view.h"
#include "engine/shell/view.h"
#include "storage/maintenance.h"

namespace bp::cli {
namespace {

int print_report(const Options& o, const storage::VerifyReport& r) {
  v1::JournalTaskProgress p;
  for (const auto& finding : r.findings) p.add_findings(finding.to_line());
  for (const auto& line : r.lines) p.add_findings(line);
  p.mutable_progress()->set_done(r.commits);
  p.mutable_progress()->set_unit("commits");
  if (o.json) {
    print_line(to_json(p));
  } else {
    for (const auto& line : p.findings()) print_line(line);
    fmt::print(stderr, "{}: commits {} to {}, {} events, {}\n", o.engine.file, r.first_commit,
               r.last_commit, r.entries, r.sound() ? "sound" : "NOT sound");
  }
  return r.sound() ? 0 : 1;
}

/// A daemon holds the lock of its state folder as long as it lives.
Status no_daemon(const std::string& state_dir) {
  Fd fd(::open((state_dir + "/daemon.lock").c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return {};  // never used
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return {};
  return Error{ErrorCode::kConflict, "a daemon runs on " + state_dir,
               "End it first: `bp daemon stop`, or systemctl stop bp-daemon"};
}

Result<storage::EndedRow> find_archived(storage::Archive& archive, const std::string& id) {
  storage::EndedQuery query;
  query.limit = 1'000;
  std::optional<storage::EndedRow> found;
  while (!found) {
    BP_ASSIGN(auto rows, archive.ended(query));
    for (const auto& row : rows) {
      if (!found && (row.run_id == id || row.name == id)) found = row;
    }
    if (rows.size() < query.limit) break;
    query.before_run_number = rows.back().run_number;
  }
  if (!found) return Error{ErrorCode::kNotFound, "the archive has no run " + id, {}};
  return *found;
}

}  // namespace

int run_journal_verify(const Options& o) {
  std::string key;
  if (!o.engine.public_key.empty()) {
    auto text = read_file(o.engine.public_key, 4096);
    if (!text.ok()) return fail(o, text.error());
    key = *text;
    while (!key.empty() && std::isspace(static_cast<unsigned char>(key.back()))) key.pop_back();
  }
  auto report = storage::verify(o.engine.file, key);
  return report.ok() ? print_report(o, *report) : fail(o, report.error());
}

int run_journal_restore(const Options& o) {
  if (Status s = no_daemon(o.paths.state_dir); !s.ok()) return fail(o, s.error());
  storage::RestoreOptions options;
  options.replace = o.engine.cancel;
  auto incarnation = storage::restore(o.engine.file, o.paths.state_dir + "/journal.db", options);
  if (!incarnation.ok()) return fail(o, incarnation.error());
  print_line(
      o.json ? fmt::format("{{\"incarnation\":{}}}", *incarnation)
             : fmt::format("restored into {}, incarnation {}", o.paths.state_dir, *incarnation));
  return 0;
}

int run_journal_import(const Options& o) {
  auto report = storage::import_journal(o.engine.file, o.engine.other);
  return report.ok() ? print_report(o, *report) : fail(o, report.error());
}

int run_show_archived(const Options& o) {
  auto archive = storage::Archive::open(o.engine.archive);
  if (!archive.ok()) return fail(o, archive.error());
  auto row = find_archived(*archive, o.id);
  if (!row.ok()) return fail(o, row.error());
  const v1::RunView view = shell::make_view(*row);
  std::string text = o.json ? to_json(view) : run_text(view, SystemClock().wall_ms());
  if (!text.empty() && text.back() == '\n') text.pop_back();
  print_line(text);
  return 0;
}

int run_history_archived(const Options& o) {
  auto archive = storage::Archive::open(o.engine.archive);
  if (!archive.ok()) return fail(o, archive.error());
  auto row = find_archived(*archive, o.id);
  if (!row.ok()) return fail(o, row.error());
  auto entries = archive->history(row->run_number);
  if (!entries.ok()) return fail(o, entries.error());
  for (const auto& e : *entries) {
    if (e.run_seq > o.engine.after_event)
      print_line(history_line(o, shell::history_entry(e, o.engine.bodies || o.json)));
  }
  return 0;
}

}  // namespace bp::cli
