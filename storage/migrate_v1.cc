#include "storage/journal_schema.h"

namespace bp::storage {

Status migrate_from_v1(Database&) {
  return Error{ErrorCode::kJournal, "schema version 1 cannot be converted by this build", {}};
}

}  // namespace bp::storage
