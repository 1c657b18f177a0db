// JournalTasks: backup, export, check, archive and rebuilding the search, on a thread of their own
// beside the daemon's work. One at a time. Thread: the executor's; reports come on it.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "bp/v1/control.pb.h"
#include "engine/shell/engine_api.h"
#include "engine/shell/world.h"
#include "storage/sqlite_journal.h"

namespace bp::daemon {

class JournalTasks {
 public:
  JournalTasks(storage::SqliteJournal& journal, shell::Executor& executor)
      : journal_(journal), executor_(executor) {}
  /// Ends a running task at its next step.
  ~JournalTasks();

  /// `run`: which run an export is of; number 0: all. The report is called once, with the outcome.
  /// kConflict: another task runs; kInvalidArgument: the path is not absolute.
  Status start(const v1::JournalTask& task, shell::EngineApi::RunPlace run,
               shell::EngineApi::TaskReport report);

 private:
  Result<v1::JournalTaskProgress> run(const v1::JournalTask& task,
                                      const shell::EngineApi::RunPlace& place);

  storage::SqliteJournal& journal_;
  shell::Executor& executor_;
  std::thread thread_;
  std::atomic<bool> cancelled_ = false;
  bool running_ = false;  // the executor's thread only
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace bp::daemon
