#include "storage/journal.h"

#include <algorithm>

namespace bp::storage {

bool Commit::empty() const {
  return entries.empty() && put_live.empty() && drop_live.empty() && ended.empty() &&
         revived.empty() && put_secrets.empty() && drop_secrets_of_runs.empty() &&
         put_meta.empty() && drop_meta.empty() && put_blobs.empty() && drop_blobs.empty();
}

bool matches(const EndedRow& r, const EndedQuery& q) {
  auto within = [](int64_t v, int64_t from, int64_t to) {
    return (from == 0 || v >= from) && (to == 0 || v <= to);
  };
  if (q.before_run_number != 0 && r.run_number >= q.before_run_number) return false;
  if (!q.name.empty() && r.name != q.name) return false;
  if (!q.workflow.empty() && r.workflow != q.workflow) return false;
  if (!q.error_code.empty() && r.error_code != q.error_code) return false;
  if (!q.states.empty() && std::find(q.states.begin(), q.states.end(), r.state) == q.states.end())
    return false;
  if (!within(r.created_wall_ms, q.created_from_wall_ms, q.created_to_wall_ms) ||
      !within(r.ended_wall_ms, q.ended_from_wall_ms, q.ended_to_wall_ms)) {
    return false;
  }
  return std::all_of(q.labels.begin(), q.labels.end(), [&](const auto& label) {
    const auto found = r.labels.find(label.first);
    return found != r.labels.end() && found->second == label.second;
  });
}

}  // namespace bp::storage
