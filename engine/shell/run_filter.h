// RunFilter of control.proto against live runs, and as a query for ended ones.
#pragma once
#include "bp/v1/control.pb.h"
#include "engine/core/core.h"
#include "storage/journal.h"

namespace bp::shell {

bool matches(const v1::RunFilter& filter, const core::RunState& run);
/// False when no ended run can match (live_only, or only states that do not end).
bool may_match_ended(const v1::RunFilter& filter);
storage::EndedQuery ended_query(const v1::RunFilter& filter);

}  // namespace bp::shell
