// MemoryJournal: a Journal without a disk, for tests and the simulation. Keeps the same records as
// the one on disk, chained. Callbacks run inline, or when release() is called while held. Refuses
// what the other one refuses. Thread: one at a time.
#pragma once
#include <deque>
#include <map>
#include <utility>

#include "storage/record.h"

namespace bp::storage {

class MemoryJournal final : public Journal {
 public:
  explicit MemoryJournal(uint64_t incarnation = 1) : incarnation_(incarnation) {}

  void commit(Commit c, std::function<void(Status)> done) override;
  Result<Recovered> recover() override;
  Status read_log(uint64_t from, uint64_t to,
                  const std::function<Status(const LogRecord&)>& each) override;
  Result<std::vector<Entry>> history(uint64_t run_number, uint64_t last_commit,
                                     uint64_t after_run_seq) override;
  uint64_t searchable_up_to() override { return last(); }
  Result<std::vector<EndedRow>> ended(const EndedQuery& query) override;
  Result<std::optional<EndedRow>> ended_by_number(uint64_t run_number) override;
  Result<std::optional<EndedRow>> ended_by_key(const std::string& idempotency_key) override;
  Result<std::map<int, uint64_t>> ended_counts() override;
  Result<std::optional<uint64_t>> number_of_old_id(const std::string&) override {
    return std::optional<uint64_t>();
  }
  Result<std::map<std::string, std::string>> secrets_of(uint64_t run_number) override;
  Result<std::optional<std::string>> blob(const std::string& hash) override;
  Result<std::vector<std::string>> check(const CheckOptions& options) override;

  /// The next commit and all later ones fail with `error`; nothing of them is stored.
  void fail_from_now_on(Error error) { broken_ = std::move(error); }
  /// Commits are kept back, neither durable nor answered, until release(); drop_held() forgets
  /// them, as a crash would.
  void hold() { held_ = true; }
  void release();
  void drop_held();
  /// What opening a restored copy does.
  void begin_incarnation(uint64_t incarnation) { incarnation_ = incarnation; }
  uint64_t last() const { return records_.size(); }
  const std::vector<Record>& records() const { return records_; }

 private:
  Status store(const Commit& c);

  uint64_t incarnation_;
  RecordEncoder encoder_;
  std::vector<Record> records_;  // [n - 1] is commit n
  std::map<uint64_t, LiveRow> live_;
  std::map<uint64_t, EndedRow> ended_;
  std::map<uint64_t, std::map<std::string, std::string>> secrets_;
  std::map<std::string, std::string> meta_, blobs_;
  std::optional<Error> broken_;
  bool held_ = false;
  std::deque<std::pair<Commit, std::function<void(Status)>>> waiting_;
};

}  // namespace bp::storage
