// JournalReader: reads of journal.db through one read-only connection. Also opens archives and
// files of a daemon that does not run. Errors: kJournal (damaged, with the place), kNotFound.
// Thread: one at a time.
#pragma once
#include "storage/chain_check.h"
#include "storage/sqlite_db.h"

namespace bp::storage {

class JournalReader {
 public:
  /// kNotFound; kJournal: no journal, or of another version (an older one is migrated by opening it
  /// as a journal first).
  static Result<JournalReader> open(const std::string& path, const std::string& vfs = {});

  Result<Recovered> recover();
  Result<std::optional<Record>> fetch(uint64_t number);
  /// Records `from`..`to` in order, in pieces, so that no read transaction lasts long.
  Status each_record(uint64_t from, uint64_t to, const std::function<Status(const Record&)>& each);
  Result<std::vector<Entry>> history(uint64_t run_number, uint64_t last_commit,
                                     uint64_t after_run_seq);
  Result<std::map<std::string, std::string>> secrets_of(uint64_t run_number);
  Result<std::optional<std::string>> blob(const std::string& hash);
  Result<std::optional<uint64_t>> number_of_old_id(const std::string& run_id);
  /// (first, last) commit that the log holds; (0, 0): none.
  Result<std::pair<uint64_t, uint64_t>> range();
  struct Anchor {
    uint64_t number = 0;
    std::string root;
  };
  Result<Anchor> anchor();
  /// Invariants as queries, and the database's own check.
  Status check_rows(bool integrity, std::vector<std::string>& lines);
  /// Chain and, with a key (32 bytes), signatures, over the whole log.
  Status check_chain(const std::string& public_key, ChainCheck& chain, std::vector<Finding>& seals);
  Database& db() { return db_; }

 private:
  Result<Recovered> load();
  Database db_;
  Statement fetch_, page_;
};

}  // namespace bp::storage
