// Schema of the journal and its migrations. The version is PRAGMA user_version; the file carries
// PRAGMA application_id. Before the first migration of an existing file a copy is written beside
// it.
#pragma once
#include <string>
#include <vector>

#include "storage/sqlite_db.h"

namespace bp::storage {

inline constexpr int kApplicationId = 0x62706a31;  // "bpj1"

struct Migration {
  int to_version;
  const char* sql;
};
const std::vector<Migration>& migrations();

/// Brings the file to the newest version of `list`. kJournal: another program's file, or one that a
/// newer release wrote. The copy is PATH.before-vN, N the first version that is migrated to.
Status migrate(Database& db, const std::string& path, const std::vector<Migration>& list);

}  // namespace bp::storage
