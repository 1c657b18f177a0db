#include "engine/daemon/journal_tasks.h"

#include <sys/stat.h>

#include "engine/base/log.h"
#include "storage/maintenance.h"

namespace bp::daemon {
namespace {

constexpr int64_t kRebuildMs = 24 * 3600 * 1000ll;

uint64_t size_of(const std::string& path) {
  struct stat st {};
  return ::stat(path.c_str(), &st) == 0 ? uint64_t(st.st_size) : 0;
}

void add_findings(const storage::VerifyReport& report, v1::JournalTaskProgress* out) {
  for (const auto& finding : report.findings) out->add_findings(finding.to_line());
  for (const auto& line : report.lines) out->add_findings(line);
  out->mutable_progress()->set_done(report.commits);
  out->mutable_progress()->set_total(report.commits);
  out->mutable_progress()->set_unit("commits");
}

}  // namespace

JournalTasks::~JournalTasks() {
  *alive_ = false;
  cancelled_ = true;
  if (thread_.joinable()) thread_.join();
}

Status JournalTasks::start(const v1::JournalTask& task, shell::EngineApi::RunPlace place,
                           shell::EngineApi::TaskReport report) {
  if (running_) {
    return Error{ErrorCode::kConflict, "another task on the journal is running",
                 "Try again when it has ended"};
  }
  const bool needs_path = !task.has_check() && !task.rebuild_search();
  if (needs_path && (task.path().empty() || task.path()[0] != '/')) {
    return Error{ErrorCode::kInvalidArgument,
                 "path: found \"" + task.path() + "\", expected an absolute path",
                 {}};
  }
  if (thread_.joinable()) thread_.join();
  running_ = true;
  thread_ = std::thread([this, alive = alive_, task, place, report = std::move(report)] {
    auto outcome = std::make_shared<Result<v1::JournalTaskProgress>>(run(task, place));
    executor_.post([this, alive, outcome, report] {
      if (!*alive) return;
      running_ = false;
      report(std::move(*outcome));
    });
  });
  return {};
}

Result<v1::JournalTaskProgress> JournalTasks::run(const v1::JournalTask& task,
                                                  const shell::EngineApi::RunPlace& place) {
  const std::string& journal = journal_.options().path;
  v1::JournalTaskProgress out;
  out.set_path(task.path());
  storage::Pace pace;
  pace.cancelled = [this] { return cancelled_.load(); };
  switch (task.what_case()) {
    case v1::JournalTask::kBackup: {
      BP_ASSIGN(auto report, storage::backup(journal, task.path(), pace));
      add_findings(report, &out);
      out.mutable_progress()->set_note("backed up");
      break;
    }
    case v1::JournalTask::kExportRuns:
      BP_TRY(
          storage::export_journal(journal, task.path(), place.run_number, place.last_commit, pace));
      out.set_runs(place.run_number == 0 ? 0 : 1);
      out.mutable_progress()->set_note("exported");
      break;
    case v1::JournalTask::kCheck: {
      BP_ASSIGN(auto report, storage::verify(journal));
      add_findings(report, &out);
      out.mutable_progress()->set_note(report.sound() ? "sound" : "NOT sound");
      return out;
    }
    case v1::JournalTask::kArchive: {
      storage::ArchiveOptions o;
      o.to = task.path();
      o.ended_before_wall_ms = task.archive().ended_before_wall_ms();
      o.keep_newest = task.archive().keep_newest();
      o.pace = pace;
      BP_ASSIGN(auto report, storage::archive(journal_, o));
      out.set_runs(report.runs);
      out.mutable_progress()->set_note("archived");
      break;
    }
    case v1::JournalTask::kRebuildSearch:
      BP_TRY(journal_.rebuild_search());
      BP_TRY(journal_.wait_searchable(kRebuildMs));
      out.mutable_progress()->set_note("search rebuilt");
      return out;
    default:
      return Error{ErrorCode::kProtocol, "a task of an unknown kind", {}};
  }
  out.set_bytes(size_of(task.path()));
  return out;
}

}  // namespace bp::daemon
