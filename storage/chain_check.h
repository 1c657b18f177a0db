// ChainCheck: reads the log's records in order and says what does not fit: the chain of roots, the
// bodies against their hashes, dense commits and entries.
// Thread: any, one at a time.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "storage/record.h"

namespace bp::storage {

/// One fault: where, what was found, what was expected.
struct Finding {
  uint64_t commit = 0;
  uint64_t run_number = 0;  // 0: of no run
  std::string what;
  std::string found, expected;
  std::string to_line() const;
};

class ChainCheck {
 public:
  /// Records up to `anchor_number` were dropped; its root was `anchor_root`.
  ChainCheck(uint64_t anchor_number, std::string anchor_root);
  void record(const Record& record);
  /// A record whose predecessor is not known: bodies against their hashes only, with the others of
  /// the record as hashes.
  void part(const Record& record);
  /// After the last record: the commit that must be the newest one.
  void end(uint64_t newest);
  const std::vector<Finding>& findings() const { return findings_; }
  uint64_t commits() const { return commits_; }
  uint64_t entries() const { return entries_; }
  const std::string& root() const { return root_; }
  bool full() const { return findings_.size() >= kFindingsMax; }

 private:
  static constexpr size_t kFindingsMax = 100;
  struct Last {
    uint64_t run_seq, commit;
  };
  void find(uint64_t commit, uint64_t run, std::string what, std::string found,
            std::string expected);
  void items(const Record& record);
  void item(const Record& record, const Item& item);
  uint64_t number_;
  std::string root_;
  bool complete_;  // no record before was dropped or shrunk: first entries must be number 1
  uint64_t commits_ = 0, entries_ = 0;
  std::unordered_map<uint64_t, Last> last_;  // of runs that have not ended
  std::vector<Finding> findings_;
};

}  // namespace bp::storage
