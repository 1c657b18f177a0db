// The reading half of the store: one read-only connection behind a lock.
#pragma once
#include <mutex>

#include "storage/sqlite_db.h"
#include "storage/sqlite_store.h"

namespace bp::storage {

struct SqliteStore::Reader {
  std::mutex mutex;
  Database db;

  Result<LiveState> load_live();
  Result<std::vector<RunRow>> runs(const std::string& where_and_order, const std::string& value,
                                   uint32_t limit);
  Result<std::vector<StageRow>> stages(const std::string& where, const std::string& value);
  Result<std::vector<std::string>> check();
};

/// Every event against its chain and every commit against its root: one line per fault.
Status check_chain(Database& db, std::vector<std::string>& found);

}  // namespace bp::storage
