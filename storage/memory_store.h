// MemoryStore: a Store without a disk, for tests and the simulation. Callbacks run inline, or when
// release() is called while held. Enforces the same uniqueness as a real store.
// Thread: one at a time.
#pragma once
#include <deque>
#include <memory>
#include <utility>

#include "storage/store.h"

namespace bp::storage {

class MemoryStore final : public Store {
 public:
  explicit MemoryStore(uint64_t incarnation = 1) : incarnation_(incarnation) {}

  void commit(Batch batch, std::function<void(Status)> done) override;
  Result<LiveState> load_live() override;
  Result<RunRow> find_run(const std::string& id_or_name) override;
  Result<std::optional<RunRow>> find_idempotency_key(const std::string& key) override;
  Result<std::vector<RunRow>> list_runs(bool all, uint32_t limit) override;
  Result<std::vector<StageRow>> stages_of(const std::string& run_id) override;
  Result<std::vector<EventRow>> events_of(const std::string& run_id, uint64_t after_run_seq,
                                          uint32_t limit) override;
  Result<std::map<std::string, std::string>> secrets_of(const std::string& run_id) override;
  Result<std::vector<std::string>> check() override;

  /// The next commit and all later ones fail with `error`; nothing of them is stored.
  void fail_from_now_on(Error error) { broken_ = std::move(error); }
  /// Commits are kept back, neither durable nor answered, until release(); drop_held() forgets
  /// them, as a crash would.
  void hold() { held_ = true; }
  void release();
  void drop_held();
  uint64_t commits() const { return commits_; }
  const std::vector<EventRow>& events() const { return events_; }

 private:
  Status store(const Batch& batch);
  Status refuse(const Batch& batch) const;

  using StageId = std::tuple<std::string, std::string, uint32_t>;
  using TimerId = std::tuple<std::string, std::string, uint32_t, int>;
  uint64_t incarnation_;
  std::map<std::string, RunRow> runs_;
  std::map<StageId, StageRow> stages_;
  std::map<TimerId, TimerRow> timers_;
  std::vector<EventRow> events_;
  std::map<std::string, uint64_t> last_run_seq_;
  std::map<std::string, std::map<std::string, std::string>> secrets_;
  std::map<std::string, std::string> meta_;
  uint64_t commits_ = 0;
  std::optional<Error> broken_;
  bool held_ = false;
  std::deque<std::pair<Batch, std::function<void(Status)>>> waiting_;
};

}  // namespace bp::storage
